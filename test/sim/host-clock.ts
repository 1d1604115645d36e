import type { World } from './world.ts'

/** The epoch of the simulation. */
const START_MS = 1_760_000_000_000

/** A machine's clocks; they stay as they are while processes come and go. */
export class HostClock {
  readonly #world: World
  #sinceMs = 0
  #hostMs = 0
  #rate = 1
  /** How far its wall clock is off. */
  wallShiftMs = 0

  constructor(world: World) {
    this.#world = world
  }

  /** Milliseconds of this machine per simulated one. */
  get rate(): number {
    return this.#rate
  }

  /** Fast or slow from now on. */
  setRate(rate: number): void {
    this.#hostMs = this.hostMs()
    this.#sinceMs = this.#world.nowMs()
    this.#rate = rate
  }

  /** Since the machine is there; never goes back. */
  hostMs(): number {
    return this.#hostMs + (this.#world.nowMs() - this.#sinceMs) * this.#rate
  }

  /** Whole milliseconds, as Date.now() has them. */
  wallMs(): number {
    return Math.floor(START_MS + this.hostMs() + this.wallShiftMs)
  }
}
