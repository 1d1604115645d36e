import type { Clock, Codec, Env, Link, Rng, Timer } from '../../common/env.ts'
import type { FakeDisk } from '../fake-disk.ts'
import { processDisk } from './disk.ts'
import type { HostClock } from './host-clock.ts'
import type { EventKind, Scheduled, World } from './world.ts'

/** One process: what it runs on, and the switches that pause and end it. */

/** A setImmediate, and with it all that the process does, takes time. */
const SOON_MS = 0.005
/** Node's timers have whole milliseconds, and are late by what else there is to do. */
const MIN_TIMER_MS = 1
const TIMER_LATE_MS = 1
export interface ProcessOptions {
  name: string
  /** For the trace. */
  id: number
  host: string
  disk: FakeDisk
  clock: HostClock
  /** How slow its disk is now: what operations take is multiplied by it. */
  slowness(): number
  codec: Codec
  dial(process: SimProcess, url: string, connectTimeoutMs: number): Promise<Link>
}

export class SimProcess {
  readonly name: string
  readonly id: number
  readonly host: string
  readonly world: World
  readonly rng: Rng
  readonly env: Env
  readonly #options: ProcessOptions
  #alive = true
  #paused = false
  /** What happened to it while it was paused. */
  #backlog: (() => void)[] = []
  readonly #startMs: number
  /** Called before each event. */
  beforeEach: (() => void) | null = null

  constructor(world: World, options: ProcessOptions) {
    this.world = world
    this.name = options.name
    this.id = options.id
    this.host = options.host
    this.#options = options
    this.rng = world.stream()
    this.#startMs = options.clock.hostMs()
    const disk = processDisk(this, options.disk, options.slowness)
    const net = {
      dial: (url: string, { connectTimeoutMs }: { connectTimeoutMs: number }) =>
        options.dial(this, url, connectTimeoutMs),
    }
    this.env = { clock: this.#clock(), rng: world.stream(), disk, codec: options.codec, net }
  }

  get isAlive(): boolean {
    return this.#alive
  }

  get isPaused(): boolean {
    return this.#paused
  }

  /** kill -9: nothing that it started ever comes back to it. */
  kill(): void {
    this.#alive = false
    this.#backlog = []
  }

  /** SIGSTOP. */
  pause(): void {
    this.#paused = true
  }

  /** SIGCONT: all that happened meanwhile comes at once, in order. */
  resume(): void {
    this.#paused = false
    const backlog = this.#backlog
    this.#backlog = []
    for (const run of backlog) this.world.schedule(0, run)
  }

  /** Something that happens to this process, unless it is dead by then. */
  schedule(kind: EventKind, delayMs: number, callback: () => void, data?: Uint8Array): Scheduled {
    let cancelled = false
    const run = (): void => {
      if (!this.#alive || cancelled) return
      if (this.#paused) {
        this.#backlog.push(run)
        return
      }
      this.world.trace(kind, this.id, data)
      this.beforeEach?.()
      this.guard(callback)
    }
    const event = this.world.schedule(delayMs, run)
    return {
      cancel: () => {
        cancelled = true
        event.cancel()
      },
    }
  }

  /** Calls into the product: what it throws would have ended the process, and must not happen. */
  guard(callback: () => void): void {
    if (!this.#alive) return
    try {
      callback()
    } catch (error) {
      this.world.fail(error)
    }
  }

  #clock(): Clock {
    const { clock } = this.#options
    return {
      nowMs: () => clock.wallMs(),
      monotonicMs: () => clock.hostMs() - this.#startMs,
      setTimer: (callback, delayMs): Timer => {
        const waitMs = Math.max(MIN_TIMER_MS, delayMs) + this.rng.float() * TIMER_LATE_MS
        return this.schedule('timer', waitMs / clock.rate, callback)
      },
      soon: callback => void this.schedule('soon', SOON_MS, callback),
    }
  }
}
