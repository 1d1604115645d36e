import { crc32c } from '../../common/crc32c.ts'
import type { Rng } from '../../common/env.ts'
import { seededRng } from '../rng.ts'
import { EventQueue } from './event-queue.ts'

/**
 * Time, and all that happens in it. The product's asynchrony is of two kinds: events of this queue (timers, disks, links), and
 * promise callbacks. After each event the latter are run until none is left, which is what Node does between two callbacks of
 * setImmediate; many of those go into one turn of its event loop, so simulated time costs next to nothing.
 */

/** An event that may be called off. */
export interface Scheduled {
  cancel(): void
}

/** More events, and more simulated time, than any honest run has. */
const MAX_EVENTS = 3_000_000
const MAX_MS = 1_200_000

/** Events in one turn of Node's event loop. */
const TURN_EVENTS = 500

/** What an event is, for the trace. */
export type EventKind = 'timer' | 'soon' | 'disk' | 'net' | 'world'

const KINDS: readonly EventKind[] = ['timer', 'soon', 'disk', 'net', 'world']

export class World {
  readonly seed: number
  /** For faults and load; processes have streams of their own. */
  readonly rng: Rng
  readonly counters = new Map<string, number>()
  readonly #queue = new EventQueue()
  #nowMs = 0
  #order = 0
  #events = 0
  #hash: number
  #failure: { error: unknown } | null = null
  #isOver = false
  #log: ((line: string) => void) | null

  constructor(seed: number, log: ((line: string) => void) | null = null) {
    this.seed = seed
    this.rng = seededRng(seed)
    this.#hash = seed >>> 0
    this.#log = log
  }

  /** Simulated milliseconds since the start. */
  nowMs(): number {
    return this.#nowMs
  }

  /** A stream of random numbers that no other use of randomness disturbs. */
  stream(): Rng {
    return seededRng(this.rng.below(2 ** 32))
  }

  schedule(delayMs: number, run: () => void): Scheduled {
    const event = { atMs: this.#nowMs + Math.max(0, delayMs), order: this.#order++, cancelled: false, run }
    this.#queue.push(event)
    return { cancel: () => this.#queue.cancel(event) }
  }

  sleep(ms: number): Promise<void> {
    return new Promise(resolve => {
      this.schedule(ms, resolve)
    })
  }

  /** Notes what happened; runs of one seed must note the same. `data`: what it happened with. */
  trace(kind: EventKind, who: number, data?: Uint8Array): void {
    const time = Math.floor(this.#nowMs * 1_000) | 0
    let hash = Math.imul(this.#hash ^ time, 0x01000193)
    hash = Math.imul(hash ^ (who * KINDS.length + KINDS.indexOf(kind)), 0x01000193)
    if (data !== undefined) hash = Math.imul(hash ^ crc32c(data), 0x01000193)
    this.#hash = (hash ^ (hash >>> 15)) >>> 0
  }

  hash(): string {
    return this.#hash.toString(16).padStart(8, '0')
  }

  count(what: string, by = 1): void {
    this.counters.set(what, (this.counters.get(what) ?? 0) + by)
  }

  /** Records acked to devices and producers. */
  acks(): number {
    return (this.counters.get('edge acks') ?? 0) + (this.counters.get('client acks') ?? 0)
  }

  get isWatched(): boolean {
    return this.#log !== null
  }

  /** For who watches one seed. */
  say(text: () => string): void {
    this.#log?.(`${(this.#nowMs / 1_000).toFixed(4).padStart(9)} ${text()}`)
  }

  /** The run ends with the first failure. */
  fail(error: unknown): void {
    this.say(() => `FAILED: ${error instanceof Error ? error.message : String(error)}`)
    this.#failure ??= { error }
    this.#isOver = true
  }

  get events(): number {
    return this.#events
  }

  /** Runs until `script` ends; rejects with what it or anything else fails with. */
  async run(script: () => Promise<void>): Promise<void> {
    const onRejection = (error: unknown): void => this.fail(error)
    process.on('unhandledRejection', onRejection)
    this.#isOver = false
    try {
      script().then(
        () => {
          this.#isOver = true
        },
        error => this.fail(error),
      )
      await new Promise<void>(resolve => this.#turn(resolve))
    } finally {
      process.off('unhandledRejection', onRejection)
    }
    if (this.#failure !== null) throw this.#failure.error
  }

  #turn(over: () => void): void {
    for (let count = 0; count < TURN_EVENTS; count++) setImmediate(this.#step)
    setImmediate(() => {
      if (this.#isOver) over()
      else this.#turn(over)
    })
  }

  readonly #step = (): void => {
    if (this.#isOver) return
    try {
      const event = this.#queue.pop()
      if (event === null) throw new Error('nothing is left to happen, and the script waits for something')
      if (this.#events++ > MAX_EVENTS) throw new Error(`${MAX_EVENTS} events, and no end`)
      if (event.atMs > MAX_MS) throw new Error(`${MAX_MS} simulated ms, and no end`)
      this.#nowMs = event.atMs
      event.run()
    } catch (error) {
      this.fail(error)
    }
  }
}
