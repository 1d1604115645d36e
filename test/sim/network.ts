import type { Link, LinkClosed, LinkHandlers } from '../../common/env.ts'
import { TributaryError } from '../../common/errors.ts'
import type { Connection, End, Item, Pipe } from './pipe.ts'
import { emptyPipe, isOver, newConnection } from './pipe.ts'
import type { SimProcess } from './process.ts'
import type { World } from './world.ts'

/**
 * Machines and what lies between them. A path that is blocked swallows silently; what was on the way arrives some time after
 * it is open again, as TCP sends again. Connections end by resets, which take the same ways.
 */

/** Who answers at a HOST:PORT. */
export interface Listener {
  process: SimProcess
  accept(path: string, link: Link): void
}

/** What becomes of a message: `late` and `twice` only of those whose protocol promises to stand it. */
export type Fate = 'pass' | 'drop' | 'twice' | 'late'

/** Picks connections by who dialled whom, and for what. */
export type IsWanted = (from: string, to: string, path: string) => boolean

interface Heeded {
  host: string
  isWanted(path: string, data: Uint8Array): boolean
  resolve(): void
}

const BROKEN: LinkClosed = { code: 1006, reason: '' }
/** The last of TCP's attempts to send again may lie so far apart. */
const MAX_RESEND_MS = 2_000
/** A message that comes late does so by at most. */
const MAX_LATE_MS = 300
const HIGH_WATER_BYTES: readonly number[] = [64 * 1024, 512 * 1024, 4 * 1024 * 1024]

export class Network {
  readonly #world: World
  readonly #listeners = new Map<string, Listener>()
  readonly #connections = new Set<Connection>()
  /** Directed: `from>to` to when it was blocked. */
  readonly #blocked = new Map<string, number>()
  readonly #off = new Set<string>()
  readonly #heeded = new Set<Heeded>()
  readonly #refusing = new Set<string>()
  /** What a message takes from one machine to another, without the faults. */
  latencyMs: () => number = () => 0.2
  /** What the faults add to it. */
  readonly delays = new Set<() => number>()
  /** The machine that a name stands for now. */
  resolve: (name: string) => string = name => name
  /** Asked for every message. */
  fate: (path: string, data: Uint8Array, from: string, to: string) => Fate = () => 'pass'
  /** Shown every message as it is sent, whatever becomes of it. */
  onSend: ((data: Uint8Array, pipe: Pipe) => void) | null = null
  /** Shown every message as it arrives. */
  onArrival: ((data: Uint8Array, pipe: Pipe) => void) | null = null

  constructor(world: World) {
    this.#world = world
  }

  /** Resolves as soon as a machine has said something that `isWanted`. */
  whenSaid(host: string, isWanted: (path: string, data: Uint8Array) => boolean): Promise<void> {
    return new Promise(resolve => {
      this.#heeded.add({ host, isWanted, resolve })
    })
  }

  #heed(host: string, path: string, data: Uint8Array): void {
    for (const heeded of this.#heeded) {
      if (heeded.host !== host || !heeded.isWanted(path, data)) continue
      this.#heeded.delete(heeded)
      heeded.resolve()
    }
  }

  #tripMs(): number {
    let tripMs = this.latencyMs()
    for (const delayMs of this.delays) tripMs += delayMs()
    return tripMs
  }

  listen(address: string, listener: Listener): void {
    this.#listeners.set(address, listener)
  }

  unlisten(address: string): void {
    this.#listeners.delete(address)
  }

  // ---------------------------------------------------------------------------------------------- faults

  block(from: string, to: string): void {
    if (!this.#blocked.has(`${from}>${to}`)) this.#blocked.set(`${from}>${to}`, this.#world.nowMs())
  }

  unblock(from: string, to: string): void {
    const sinceMs = this.#blocked.get(`${from}>${to}`)
    if (sinceMs === undefined) return
    this.#blocked.delete(`${from}>${to}`)
    const resendMs = Math.min(MAX_RESEND_MS, this.#world.nowMs() - sinceMs)
    for (const pipe of this.#pipes()) {
      if (pipe.from.process.host === from && pipe.to.process.host === to) this.#resend(pipe, resendMs)
    }
  }

  isBlocked(from: string, to: string): boolean {
    return this.#blocked.has(`${from}>${to}`)
  }

  /** All ways are open, and nobody refuses. */
  heal(): void {
    this.#refusing.clear()
    for (const pipe of this.#pipes()) if (pipe.isStalled) this.#unstall(pipe, MAX_RESEND_MS)
    for (const key of [...this.#blocked.keys()]) {
      const [from = '', to = ''] = key.split('>')
      this.unblock(from, to)
    }
  }

  /** Dials of this address are refused. */
  refuse(address: string, isRefusing: boolean): void {
    if (isRefusing) this.#refusing.add(address)
    else this.#refusing.delete(address)
  }

  /** The machine lost power: it says nothing more, and of its connections nobody hears until it is back. */
  powerOff(host: string): void {
    this.#off.add(host)
    for (const connection of this.#connections) {
      for (const { from } of [connection.there, connection.back]) {
        if (from.process.host !== host || from.gone) continue
        from.gone = true
        from.closed = BROKEN
      }
    }
  }

  /** Back, and it knows nothing of the connections that others think they have with it. */
  powerOn(host: string): void {
    if (!this.#off.delete(host)) return
    for (const connection of this.#connections) {
      const { there, back } = connection
      for (const pipe of [there, back]) {
        if (pipe.from.process.host === host && pipe.from.gone) this.#reset(pipe, MAX_RESEND_MS)
      }
    }
  }

  /** The connections of a process that is dead: its machine resets them. */
  ended(process: SimProcess): void {
    for (const connection of this.#connections) {
      for (const pipe of [connection.there, connection.back]) {
        if (pipe.from.process !== process || pipe.from.closed !== null) continue
        pipe.from.closed = BROKEN
        this.#loseSome(pipe)
        this.#reset(pipe, 0)
      }
      if (isOver(connection)) this.#connections.delete(connection)
    }
  }

  /** Breaks a random one of the connections that `isWanted`; false where there is none. */
  cutOne(isWanted: IsWanted): boolean {
    const connection = this.#pick(isWanted)
    if (connection !== null) this.#cut(connection)
    return connection !== null
  }

  /** Breaks all connections that `isWanted`. */
  cutAll(isWanted: IsWanted): void {
    for (const connection of this.#open(isWanted)) this.#cut(connection)
  }

  #cut(connection: Connection): void {
    for (const pipe of [connection.there, connection.back]) {
      this.#loseSome(pipe)
      this.#reset(pipe, 0)
    }
  }

  /** One direction of a random one of the connections that `isWanted` stands still for a while. */
  stallOne(isWanted: IsWanted, ms: number): boolean {
    const connection = this.#pick(isWanted)
    if (connection === null) return false
    const pipe = this.#world.rng.below(2) === 0 ? connection.there : connection.back
    pipe.isStalled = true
    this.#world.schedule(ms, () => this.#unstall(pipe, Math.min(ms, MAX_RESEND_MS)))
    return true
  }

  #unstall(pipe: Pipe, resendMs: number): void {
    if (!pipe.isStalled) return
    pipe.isStalled = false
    this.#resend(pipe, resendMs)
  }

  #open(isWanted: IsWanted): Connection[] {
    return [...this.#connections].filter(({ there, path }) => {
      const { from, to } = there
      if (from.closed !== null || to.closed !== null) return false
      return isWanted(from.process.host, to.process.host, path)
    })
  }

  #pick(isWanted: IsWanted): Connection | null {
    const open = this.#open(isWanted)
    return open[this.#world.rng.below(Math.max(1, open.length))] ?? null
  }

  *#pipes(): Iterable<Pipe> {
    for (const { there, back } of this.#connections) {
      yield there
      yield back
    }
  }

  // ------------------------------------------------------------------------------------------------ dial

  async dial(process: SimProcess, url: string, connectTimeoutMs: number): Promise<Link> {
    const { hostname, port, pathname: path } = new URL(url)
    const host = this.resolve(hostname)
    const address = `${host}:${port}`
    const dead = new Promise<never>(() => {})
    const pass = (kindMs: number): Promise<void> =>
      new Promise(resolve => {
        process.schedule('net', kindMs, resolve)
      })
    const from = process.host
    if (this.#off.has(host) || this.isBlocked(from, host) || this.isBlocked(host, from)) {
      await pass(connectTimeoutMs)
      throw new TributaryError('timeout', `no answer from ${url} in ${connectTimeoutMs} ms`)
    }
    const tripMs = this.#tripMs() + this.#tripMs()
    const listener = this.#listeners.get(address)
    if (listener === undefined || this.#refusing.has(address) || !listener.process.isAlive) {
      await pass(tripMs)
      throw new TributaryError('not_available', `${url}: connection refused`, { cause: refused() })
    }
    return new Promise<Link>((resolve, reject) => {
      const timer = process.schedule('net', connectTimeoutMs, () =>
        reject(new TributaryError('timeout', `no answer from ${url} in ${connectTimeoutMs} ms`)),
      )
      // The listener's process answers, when it gets to it.
      listener.process.schedule('net', tripMs, () => {
        if (!process.isAlive) return
        const connection = this.#connect(process, listener.process, path)
        listener.accept(path, this.#link(connection.back, connection.there))
        process.schedule('net', tripMs / 2, () => {
          timer.cancel()
          resolve(this.#link(connection.there, connection.back))
        })
      })
    }).catch((error: unknown) => {
      if (!process.isAlive) return dead
      throw error
    })
  }

  #connect(from: SimProcess, to: SimProcess, path: string): Connection {
    const highWaterBytes = HIGH_WATER_BYTES[this.#world.rng.below(HIGH_WATER_BYTES.length)] ?? 65_536
    const connection = newConnection(from, to, path, highWaterBytes)
    this.#connections.add(connection)
    return connection
  }

  // ------------------------------------------------------------------------------------------------ ends

  #link(out: Pipe, back: Pipe): Link {
    const self = out.from
    const { connection } = out
    return {
      remote: `${out.to.process.host}:1`,
      handle: handlers => this.#handle(self, handlers),
      send: data => {
        if (self.closed !== null || self.closing) return false
        this.#send(out, data)
        if (out.bytes <= connection.highWaterBytes) return true
        out.isFull = true
        return false
      },
      bufferedBytes: () => out.bytes,
      pause: () => {
        self.reading = false
      },
      resume: () => {
        self.reading = true
        this.#schedule(back)
      },
      close: (code, reason) => {
        if (self.closed !== null || self.closing) return
        self.closing = true
        this.#push(out, { close: { code, reason } })
      },
      terminate: () => {
        if (self.closed !== null) return
        this.#loseSome(out)
        this.#reset(out, 0)
        this.#close(connection, self, BROKEN)
      },
    }
  }

  #handle(self: End, handlers: LinkHandlers): void {
    self.handlers = handlers
    const { closed } = self
    if (self.early.length > 0) self.process.schedule('net', 0, () => this.#tellEarly(self))
    if (closed !== null) self.process.schedule('net', 0, () => handlers.close(closed))
  }

  #tellEarly(self: End): void {
    const { early } = self
    self.early = []
    for (const data of early) self.handlers?.message(data)
  }

  #close(connection: Connection, end: End, closed: LinkClosed): void {
    if (end.closed !== null) return
    end.closed = closed
    const { there, back } = connection
    emptyPipe(there.to === end ? there : back)
    if (isOver(connection)) this.#connections.delete(connection)
    end.process.schedule('net', 0, () => end.handlers?.close(closed))
  }

  // -------------------------------------------------------------------------------------------- messages

  #send(out: Pipe, data: Uint8Array): void {
    const world = this.#world
    this.onSend?.(data, out)
    this.#heed(out.from.process.host, out.connection.path, data)
    const verdict = this.fate(out.connection.path, data, out.from.process.host, out.to.process.host)
    if (verdict === 'drop') return
    // As a socket does, the link owns what it was given: later changes by the sender must not show.
    const copy = new Uint8Array(data)
    if (verdict !== 'late') this.#push(out, { data: copy })
    if (verdict === 'pass') return
    world.schedule(world.rng.float() * MAX_LATE_MS, () => {
      if (out.from.closed === null && !out.from.closing) this.#push(out, { data: copy })
    })
  }

  #push(pipe: Pipe, item: Item): void {
    if (pipe.to.closed !== null && !pipe.to.gone) return
    const { items } = pipe
    const atMs = Math.max(this.#world.nowMs() + this.#tripMs(), items.at(-1)?.atMs ?? 0)
    items.push({ item, atMs })
    if ('data' in item) pipe.bytes += item.data.length
    this.#schedule(pipe)
  }

  #schedule(pipe: Pipe): void {
    const first = pipe.items[0]
    if (pipe.scheduled || first === undefined || pipe.to.gone) return
    if (!pipe.to.reading || pipe.isStalled || this.#isSwallowed(pipe)) return
    pipe.scheduled = true
    const data = 'data' in first.item ? first.item.data : undefined
    const deliver = (): void => {
      pipe.scheduled = false
      this.#deliver(pipe)
    }
    pipe.to.process.schedule('net', first.atMs - this.#world.nowMs(), deliver, data)
  }

  #isSwallowed(pipe: Pipe): boolean {
    return this.isBlocked(pipe.from.process.host, pipe.to.process.host)
  }

  #deliver(pipe: Pipe): void {
    const { to } = pipe
    if (!to.reading || pipe.isStalled || this.#isSwallowed(pipe) || to.closed !== null) return
    const { connection } = pipe
    const first = pipe.items.shift()
    if (first === undefined) return
    this.#schedule(pipe)
    const { item } = first
    if ('data' in item) this.#arrive(pipe, item.data)
    else if ('reset' in item) this.#close(connection, to, BROKEN)
    else {
      this.#close(connection, to, item.close)
      // The other end's close is answered, if the way back lets it.
      this.#push(pipe === connection.there ? connection.back : connection.there, { close: item.close })
    }
  }

  #arrive(pipe: Pipe, data: Uint8Array): void {
    const { from, to, connection } = pipe
    pipe.bytes -= data.length
    this.onArrival?.(data, pipe)
    if (to.handlers === null || to.early.length > 0) to.early.push(data)
    else to.handlers.message(data)
    if (!pipe.isFull || pipe.bytes > connection.highWaterBytes / 4) return
    pipe.isFull = false
    if (from.closed === null) from.process.schedule('net', 0, () => from.handlers?.drain())
  }

  /** Sent again, some time after the way is open. */
  #resend(pipe: Pipe, withinMs: number): void {
    const atMs = this.#world.nowMs() + this.#world.rng.float() * withinMs
    for (const item of pipe.items) item.atMs = Math.max(item.atMs, atMs)
    this.#schedule(pipe)
  }

  /** What a process had sent and the machine had not is lost when the connection breaks. */
  #loseSome(pipe: Pipe): void {
    const { rng } = this.#world
    if (rng.below(2) === 0) return
    const kept = pipe.items.slice(0, rng.below(pipe.items.length + 1))
    pipe.items = kept
    pipe.bytes = kept.reduce((bytes, { item }) => bytes + ('data' in item ? item.data.length : 0), 0)
  }

  #reset(pipe: Pipe, withinMs: number): void {
    if (pipe.to.gone || pipe.to.closed !== null) return
    this.#push(pipe, { reset: true })
    if (withinMs > 0) this.#resend(pipe, withinMs)
  }
}

function refused(): Error {
  return Object.assign(new Error('connect ECONNREFUSED'), { code: 'ECONNREFUSED' })
}
