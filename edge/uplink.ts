import type { Logger } from 'pino'
import { must } from '../common/assert.ts'
import { utf8, utf8Text } from '../common/bytes.ts'
import type { Channel, ChannelClosed } from '../common/channel.ts'
import type { EdgeConfig } from '../common/config-edge.ts'
import type { Timer } from '../common/env.ts'
import { isTributaryError, messageOf } from '../common/errors.ts'
import type { HubList } from '../common/hub-list.ts'
import { createHubList } from '../common/hub-list.ts'
import { MAX_FRAME_BYTES, SECOND_MS } from '../common/limits.ts'
import { dialChannel } from '../common/session.ts'
import type { ReportFrame } from '../common/wire.ts'
import { CLOSE, UPLINK_PATH } from '../common/wire.ts'
import { adopt, applyChange, damageEnd, storedSession } from './changes.ts'
import { cutChunk, sealChunk } from './chunk.ts'
import type { ForwarderState } from './forward-state.ts'
import type { Input, Output } from './forward-types.ts'
import { createForwarder, step, wakeAtMs } from './forwarder.ts'
import type { Lane } from './lane.ts'
import type { Store } from './store.ts'

/** The socket and the reads behind the forwarder: does what it says, tells it what came of it, and decides nothing. */

const CONNECT_TIMEOUT_MS = 15 * SECOND_MS
/** The same where there are other nodes to try: a machine that is gone swallows packets. */
const CONNECT_ONE_OF_MS = 5 * SECOND_MS
/** Where there are, one that owes acks is asked whether it is there, and given up, sooner than by heartbeats. */
const ASK = { afterMs: 3 * SECOND_MS, deadMs: 10 * SECOND_MS }
/** Where nodes that the hub told of are stored. */
const NODES_KEY = 'hub-nodes'

export interface UplinkStats {
  connected: boolean
  /** The node of the hub that it is connected to, or that is tried next. */
  hub: string
  /** When the session began, on the wall clock; null while away. */
  connectedSinceMs: number | null
  session: number
  clusterId: string | null
  connections: number
  framesSent: number
  bytesSent: number
  /** Raw bytes of local logs behind them. */
  bytesRead: number
  inflightBytes: number
  lastError: string | null
}

export interface Uplink {
  /** Ends the connection in order; unacked records are sent again by the next start. */
  close(): Promise<void>
  stats(): UplinkStats
  /** One past the last record of a lane sent in this connection; what is committed, while away. */
  sentOffset(lane: Lane): number
}

export interface UplinkOptions {
  edgeId: string
  software: string
  log: Pick<Logger, 'info' | 'warn'>
  /** For `report`. */
  report(): Pick<ReportFrame, 'diskBytes' | 'diskBudgetBytes' | 'lanes'>
}

/** Starts forwarding what is in `store`. */
export function startUplink(store: Store, options: UplinkOptions): Uplink {
  return new UplinkShell(store, options)
}

class UplinkShell implements Uplink {
  readonly #store: Store
  readonly #options: UplinkOptions
  readonly #config: EdgeConfig['uplink']
  readonly #state: ForwarderState
  readonly #inputs: Input[] = []
  #stepping = false
  /** Whether the hub owes an answer. */
  #expecting = false
  #channel: Channel | null = null
  #timer: Timer | null = null
  #timerAtMs = Number.POSITIVE_INFINITY
  #reportTimer: Timer | null = null
  /** Frames made and not sent. */
  readonly #prepared = new Map<number, { log: number; batches: Uint8Array }>()
  /** Tickets under way that are still wanted. */
  readonly #wanted = new Set<number>()
  readonly #hubs: HubList
  #closed = false
  #whenClosed: () => void = () => {}
  readonly #stats = { connections: 0, framesSent: 0, bytesSent: 0, bytesRead: 0 }
  #connectedSinceMs: number | null = null
  #lastError: string | null = null

  constructor(store: Store, options: UplinkOptions) {
    this.#store = store
    this.#options = options
    this.#config = store.config.uplink
    this.#hubs = createHubList(store.config.hub.split(','), store.env.rng, storedNodes(store))
    this.#state = createForwarder(this.#config, storedSession(store), this.#clock.monotonicMs())
    store.listen({
      lane: lane => this.#input({ t: 'lane', ledger: lane.ledger }),
      wake: lane => this.#input({ t: 'wake', lane: lane.key }),
    })
    this.#input({ t: 'tick' })
  }

  get #clock(): Store['env']['clock'] {
    return this.#store.env.clock
  }

  stats(): UplinkStats {
    const { session, connection } = this.#state
    return {
      ...this.#stats,
      connected: connection.phase === 'up',
      hub: this.#hubs.current(),
      connectedSinceMs: this.#connectedSinceMs,
      session: session.session,
      clusterId: session.clusterId,
      inflightBytes: connection.inflightBytes,
      lastError: this.#lastError,
    }
  }

  sentOffset(lane: Lane): number {
    return this.#state.lanes.get(lane.key)?.inflight.at(-1)?.to ?? lane.ledger.committed
  }

  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    const ended = new Promise<void>(resolve => {
      this.#whenClosed = resolve
    })
    this.#input({ t: 'stop' })
    this.#timer?.cancel()
    this.#reportTimer?.cancel()
    if (this.#channel === null) return
    await ended
  }

  // --------------------------------------------------------------------------------------- the forwarder

  /** Inputs are taken one after another, also those that doing an output brings about. */
  #input(input: Input): void {
    this.#inputs.push(input)
    if (this.#stepping) return
    this.#stepping = true
    for (let next = this.#inputs.shift(); next !== undefined; next = this.#inputs.shift()) {
      const context = { nowMs: this.#clock.monotonicMs(), random: this.#store.env.rng.float() }
      for (const output of step(this.#state, next, context)) this.#perform(output)
    }
    this.#stepping = false
    this.#expect()
    this.#schedule()
  }

  #expect(): void {
    const { phase, inflightBytes, opening } = this.#state.connection
    const owes = phase === 'up' && (inflightBytes > 0 || opening > 0)
    if (owes === this.#expecting) return
    this.#expecting = owes
    this.#channel?.expect(owes)
  }

  #schedule(): void {
    const nowMs = this.#clock.monotonicMs()
    const atMs = this.#closed ? Number.POSITIVE_INFINITY : wakeAtMs(this.#state, nowMs)
    // Most inputs leave it as it was, and one comes with each commit.
    if (this.#timer !== null && atMs === this.#timerAtMs) return
    this.#timer?.cancel()
    this.#timer = null
    this.#timerAtMs = atMs
    if (atMs === Number.POSITIVE_INFINITY) return
    const tick = (): void => {
      this.#timer = null
      this.#input({ t: 'tick' })
    }
    this.#timer = this.#clock.setTimer(tick, Math.max(1, Math.ceil(atMs - nowMs)))
  }

  #lane(key: string): Lane {
    return must(this.#store.lanes.get(key), `the forwarder knows lanes of the store only, not ${key}`)
  }

  #perform(output: Output): void {
    const { alarms, space } = this.#store
    switch (output.t) {
      case 'dial':
        void this.#dial(output.session, output.clusterId)
        break
      case 'send':
        this.#channel?.send(output.frame)
        break
      case 'append':
        this.#sendAppend(output.ticket)
        break
      case 'drop':
        this.#prepared.delete(output.ticket)
        this.#wanted.delete(output.ticket)
        break
      case 'read':
        this.#wanted.add(output.ticket)
        void this.#read(output)
        break
      case 'adopt':
        void adopt(
          this.#store,
          { session: output.session, clusterId: output.clusterId },
          output.verdict,
        ).then(ok => {
          if (ok) this.#up(output.session)
          this.#input({ t: 'adopted', ok })
        })
        break
      case 'change':
        void applyChange(this.#store, this.#lane(output.lane), output.change).then(ok =>
          this.#input({ t: 'changed', lane: output.lane, ok }),
        )
        break
      case 'committed':
        space.committed(this.#lane(output.lane), output.offset)
        this.#store.laneChanged(this.#lane(output.lane))
        break
      case 'close':
        this.#channel?.close(CLOSE.normal, 'the edge stops')
        break
      case 'alarm':
        alarms.raise(output.alarm.kind, output.alarm.message, output.alarm.lane)
    }
  }

  // ------------------------------------------------------------------------------------------ connection

  async #dial(session: number, clusterId: string | null): Promise<void> {
    const { env, config } = this.#store
    try {
      const link = await env.net.dial(`${this.#hubs.current()}${UPLINK_PATH}`, {
        maxFrameBytes: MAX_FRAME_BYTES,
        connectTimeoutMs: this.#hubs.isOne() ? CONNECT_TIMEOUT_MS : CONNECT_ONE_OF_MS,
        ...(config.token === null ? {} : { token: config.token }),
        ...(config.caPem === null ? {} : { caPem: config.caPem }),
      })
      if (this.#closed) return link.terminate()
      this.#stats.connections++
      const nowMs = Math.floor(env.clock.nowMs())
      this.#channel = dialChannel(link, {
        clock: env.clock,
        frames: 'uplink-hub',
        heartbeat: this.#config,
        ...(this.#hubs.isOne() ? {} : { ask: ASK }),
        hello: {
          software: this.#options.software,
          edge: { id: this.#options.edgeId, session, clusterId, nowMs },
        },
        welcome: welcome => {
          this.#learn(welcome.nodes ?? [])
          this.#input({ t: 'welcome', welcome })
        },
        frame: frame => {
          if (frame.t === 'error') alarmOf(this.#store, frame.message)
          else this.#input({ t: 'frame', frame })
        },
        drain: () => this.#input({ t: 'drained' }),
        closed: closed => this.#onClosed(closed),
      })
    } catch (error) {
      if (isTributaryError(error, 'unauthorized')) this.#store.alarms.raise('unauthorized', error.message)
      this.#gone(messageOf(error), false)
    }
  }

  /** Kept over a restart: the node that was configured may be the one that is gone then. */
  #learn(nodes: readonly string[]): void {
    if (!this.#hubs.learn(nodes)) return
    const value = utf8(JSON.stringify(this.#hubs.learned()))
    this.#store.state.put([{ key: NODES_KEY, value }]).catch(error => {
      this.#options.log.warn({ reason: messageOf(error) }, 'the nodes of the hub could not be stored')
    })
  }

  /** Goes on with the next node at once, and waits where none is left. */
  #gone(reason: string, fenced: boolean): void {
    const lost = this.#hubs.current()
    const next = this.#hubs.failed() && !fenced
    if (next)
      this.#options.log.info({ hub: lost, reason, next: this.#hubs.current() }, 'trying the next node')
    else if (!this.#closed) this.#away(reason)
    this.#input({ t: 'closed', reason, fenced, next })
  }

  #up(session: number): void {
    this.#connectedSinceMs = Math.floor(this.#clock.nowMs())
    this.#lastError = null
    this.#hubs.reached()
    this.#options.log.info({ hub: this.#hubs.current(), session }, 'connected to the hub')
    this.#reportSoon()
  }

  #onClosed({ error }: ChannelClosed): void {
    this.#channel = null
    this.#connectedSinceMs = null
    this.#reportTimer?.cancel()
    this.#gone(error?.message ?? 'the hub closed the connection', error?.code === 'fenced')
    this.#whenClosed()
  }

  /** Says so once for each reason, not at every attempt. */
  #away(reason: string): void {
    if (reason === this.#lastError) return
    this.#lastError = reason
    this.#options.log.warn(
      { hub: this.#store.config.hub, reason },
      'the hub is away: what comes in is kept, trying again',
    )
  }

  #reportSoon(): void {
    this.#reportTimer?.cancel()
    this.#reportTimer = this.#clock.setTimer(() => {
      if (this.#state.connection.phase !== 'up') return
      const nowMs = Math.floor(this.#clock.nowMs())
      this.#channel?.send({ t: 'report', nowMs, version: this.#options.software, ...this.#options.report() })
      this.#reportSoon()
    }, this.#config.reportMs)
  }

  // --------------------------------------------------------------------------------------------- appends

  #sendAppend(ticket: number): void {
    const frame = must(this.#prepared.get(ticket), 'what is sent was prepared')
    this.#prepared.delete(ticket)
    this.#wanted.delete(ticket)
    this.#stats.framesSent++
    this.#stats.bytesSent += frame.batches.length
    const isRoomy = this.#channel?.send({ t: 'append', ...frame }) ?? true
    if (!isRoomy) this.#input({ t: 'blocked' })
  }

  async #read(request: Extract<Output, { t: 'read' }>): Promise<void> {
    const { ticket, from, limit, run, runStart, log, maxBytes, maxRecordBytes } = request
    const lane = this.#lane(request.lane)
    let release: (() => void) | undefined
    try {
      const joinBytes = Math.min(this.#config.maxBatchBytes, maxBytes)
      const read = await lane.read(from, joinBytes)
      release = read.release
      const { batches, base } = read
      const chunk =
        batches.length === 0
          ? { kind: 'hole' as const, to: Math.min(base + read.nextOffset, limit) }
          : cutChunk({ batches, base, from, limit, run, runStart, joinBytes, maxBytes, maxRecordBytes })
      if (!this.#wanted.has(ticket)) return
      if (chunk.kind === 'oversize') return this.#input({ t: 'oversize', ticket, offset: from })
      if (chunk.kind === 'summary') {
        this.#wanted.delete(ticket)
        return this.#input({ t: 'summary', ticket, summary: chunk.summary })
      }
      if (chunk.kind === 'hole')
        return this.#unreadable(ticket, chunk.to > from ? { from, to: chunk.to } : null)
      this.#input({ t: 'read', ticket, to: chunk.to })
      this.#stats.bytesRead += chunk.batches.length
      const { compression } = this.#config
      const sealed = await sealChunk(chunk, { codec: this.#store.env.codec, compression })
      if (!this.#wanted.has(ticket)) return
      // The log's own buffer is given back below.
      this.#prepared.set(ticket, {
        log,
        batches: sealed.buffer === batches.buffer ? Uint8Array.from(sealed) : sealed,
      })
      this.#input({ t: 'prepared', ticket, bytes: sealed.length })
    } catch (error) {
      this.#onReadError(request, error)
    } finally {
      release?.()
    }
  }

  #onReadError({ ticket, lane, from, limit }: Extract<Output, { t: 'read' }>, error: unknown): void {
    if (!isTributaryError(error)) throw error
    if (!this.#wanted.has(ticket)) return
    if (error.code !== 'offset_out_of_range') {
      this.#store.alarms.raise('damage', `the local log of ${lane} cannot be read: ${error.message}`, lane)
    }
    const damaged = damageEnd(this.#lane(lane), from, error)
    this.#unreadable(ticket, damaged === null ? null : { from, to: Math.min(damaged, limit) })
  }

  #unreadable(ticket: number, damage: { from: number; to: number } | null): void {
    this.#wanted.delete(ticket)
    this.#input({ t: 'unreadable', ticket, damage })
  }
}

/** What an earlier connection told; nothing where it makes no sense. */
function storedNodes(store: Store): string[] {
  const stored = store.state.get(NODES_KEY)
  if (stored === undefined) return []
  try {
    const nodes: unknown = JSON.parse(utf8Text(stored))
    return Array.isArray(nodes) ? nodes.filter(node => typeof node === 'string') : []
  } catch {
    return []
  }
}

function alarmOf(store: Store, message: string): void {
  store.alarms.raise('protocol', `the hub says: ${message}`)
}
