import type { Clock, Rng, Timer } from '../common/env.ts'

/** A clock that stands still until told; `soon` runs by itself, as I/O would. */
export class FakeClock implements Clock {
  #wallMs: number
  #monotonicMs = 0
  #timers: { atMs: number; order: number; callback: () => void }[] = []
  #order = 0

  constructor(wallMs = 1_700_000_000_000) {
    this.#wallMs = wallMs
  }

  nowMs(): number {
    return this.#wallMs
  }

  monotonicMs(): number {
    return this.#monotonicMs
  }

  setTimer(callback: () => void, delayMs: number): Timer {
    const timer = { atMs: this.#monotonicMs + Math.max(0, delayMs), order: this.#order++, callback }
    this.#timers.push(timer)
    return {
      cancel: () => {
        this.#timers = this.#timers.filter(other => other !== timer)
      },
    }
  }

  soon(callback: () => void): void {
    setImmediate(callback)
  }

  /** Timers set and not yet due. */
  pendingTimers(): number {
    return this.#timers.length
  }

  /** Moves both clocks on, running what is due, in order, each at its time. */
  advance(ms: number): void {
    const endMs = this.#monotonicMs + ms
    for (;;) {
      const due = this.#timers
        .filter(timer => timer.atMs <= endMs)
        .sort((left, right) => left.atMs - right.atMs || left.order - right.order)[0]
      if (due === undefined) break
      this.#timers = this.#timers.filter(timer => timer !== due)
      this.#move(due.atMs - this.#monotonicMs)
      due.callback()
    }
    this.#move(endMs - this.#monotonicMs)
  }

  #move(ms: number): void {
    this.#monotonicMs += ms
    this.#wallMs += ms
  }

  /** Makes the wall clock jump; the monotonic one does not notice. */
  jumpWall(ms: number): void {
    this.#wallMs += ms
  }
}

/** Random numbers from a seed (xorshift32 after a scramble). Good enough to pick faults with. */
export function seededRng(seed: number): Rng {
  let state = (Math.imul(seed ^ 0x9e3779b9, 0x85ebca6b) ^ (seed >>> 13)) | 1
  const next = (): number => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return state >>> 0
  }
  const float = (): number => (next() * 2 ** 21 + (next() >>> 11)) / 2 ** 53
  return {
    float,
    below: bound => Math.floor(float() * bound),
    bytes: count => Uint8Array.from({ length: count }, () => next() & 0xff),
  }
}
