import type { Rng } from '../common/env.ts'

/** A seeded generator (mulberry32): the same seed gives the same run. */
export function seededRng(seed: number): Rng {
  let state = seed >>> 0
  const next = (): number => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = state
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return (t ^ (t >>> 14)) >>> 0
  }
  const float = (): number => (next() + next() / 2 ** 32) / 2 ** 32
  return {
    float,
    below: bound => Math.floor(float() * bound),
    bytes: count => Uint8Array.from({ length: count }, () => next() & 0xff),
  }
}
