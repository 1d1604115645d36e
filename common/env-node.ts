import { randomFillSync, randomInt } from 'node:crypto'
import { performance } from 'node:perf_hooks'
import { nodeCodec } from './compression.ts'
import { nodeDisk } from './disk-node.ts'
import type { Clock, Env, Rng } from './env.ts'
import { nodeNet } from './net-node.ts'

/** The real world. Only mains import this file. */

const MAX_TIMER_MS = 2 ** 31 - 1
/** `randomInt` takes ranges below this. */
const MAX_RANDOM_INT = 2 ** 48 - 1
const TWO_53 = 2 ** 53
/** Random numbers of 32 bits drawn at once. */
const POOLED_NUMBERS = 1024
/** More are asked of the system at once. */
const MAX_POOLED_BYTES = 64

/** Time, randomness, disk, network and compression of this machine. */
export function nodeEnv(): Env {
  return { clock: nodeClock(), rng: nodeRng(), disk: nodeDisk(), net: nodeNet(), codec: nodeCodec() }
}

/** Timers of this clock do not keep the process alive, but for those made to. */
function nodeClock(): Clock {
  return {
    nowMs: () => Date.now(),
    monotonicMs: () => performance.now(),
    setTimer: (callback, delayMs, keepAlive = false) => {
      const timer = setTimeout(callback, Math.min(MAX_TIMER_MS, Math.max(0, delayMs)))
      if (!keepAlive) timer.unref()
      return { cancel: () => clearTimeout(timer) }
    },
    soon: callback => {
      setImmediate(callback)
    },
  }
}

/** Cryptographically strong. */
function nodeRng(): Rng {
  // A call to the system costs more than the commit of a record does otherwise, and some ask for a number with each.
  const pool = new Uint32Array(POOLED_NUMBERS)
  let used = POOLED_NUMBERS
  const next32 = (): number => {
    if (used === POOLED_NUMBERS) {
      randomFillSync(pool)
      used = 0
    }
    return pool[used++] ?? 0
  }
  const below53 = (): number => (next32() & 0x1fffff) * 2 ** 32 + next32()
  return {
    float: () => below53() / TWO_53,
    below: bound => (bound <= MAX_RANDOM_INT ? randomInt(bound) : Math.floor((below53() / TWO_53) * bound)),
    bytes: count => {
      const bytes = new Uint8Array(count)
      if (count > MAX_POOLED_BYTES) return randomFillSync(bytes)
      const view = new DataView(bytes.buffer)
      let at = 0
      for (; at + 4 <= count; at += 4) view.setUint32(at, next32())
      for (; at < count; at++) bytes[at] = next32()
      return bytes
    },
  }
}
