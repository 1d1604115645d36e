import { crc32c } from '../../common/crc32c.ts'
import type { Rng } from '../../common/env.ts'
import { seededRng } from '../rng.ts'
import { EventQueue } from './event-queue.ts'

/**
 * Time, and all that happens in it. The product's asynchrony is of two kinds: events of this queue (timers, disks, links), and
 * promise callbacks. After each event the latter are run until none is left, by a call into the engine instead of a turn of
 * Node's event loop, so a whole run is one synchronous call: nothing else can come between, and simulated time costs nothing.
 */

/** An event that may be called off. */
export interface Scheduled {
  cancel(): void
}

/** More events, and more simulated time, than any honest run has. */
const MAX_EVENTS = 3_000_000
const MAX_MS = 1_200_000

// Undocumented, but what Node itself calls after each callback (lib/internal/process/task_queues.js): runs nextTicks and microtasks,
// and reports rejections that nobody handled.
const tick: unknown = Reflect.get(process, '_tickCallback')

/** Runs promise callbacks until there are none. Does nothing where it is called by one. */
function drainMicrotasks(): void {
  if (typeof tick !== 'function') throw new Error('this Node has no process._tickCallback')
  Reflect.apply(tick, process, [])
}

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
  }

  get events(): number {
    return this.#events
  }

  /** Runs until `script` ends, and throws what it or anything else fails with. Must not be called by a promise callback. */
  run(script: () => Promise<void>): void {
    checkDraining()
    const onRejection = (error: unknown): void => this.fail(error)
    process.on('unhandledRejection', onRejection)
    let done = false
    try {
      script().then(
        () => {
          done = true
        },
        error => this.fail(error),
      )
      drainMicrotasks()
      while (!done && this.#failure === null) this.#step()
    } finally {
      process.off('unhandledRejection', onRejection)
    }
    if (this.#failure !== null) throw this.#failure.error
  }

  #step(): void {
    const event = this.#queue.pop()
    if (event === null) throw new Error('nothing is left to happen, and the script waits for something')
    if (this.#events++ > MAX_EVENTS) throw new Error(`${MAX_EVENTS} events, and no end`)
    if (event.atMs > MAX_MS) throw new Error(`${MAX_MS} simulated ms, and no end`)
    this.#nowMs = event.atMs
    event.run()
    drainMicrotasks()
  }
}

function checkDraining(): void {
  let drained = false
  void Promise.resolve().then(() => {
    drained = true
  })
  drainMicrotasks()
  if (!drained) throw new Error('a world must be run from a macrotask, such as a callback of setImmediate')
}
