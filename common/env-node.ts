import { randomBytes, randomInt } from 'node:crypto'
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
  const below53 = (): number => {
    const bytes = randomBytes(8)
    return (bytes.readUInt32BE(0) & 0x1fffff) * 2 ** 32 + bytes.readUInt32BE(4)
  }
  return {
    float: () => below53() / TWO_53,
    below: bound => (bound <= MAX_RANDOM_INT ? randomInt(bound) : Math.floor((below53() / TWO_53) * bound)),
    bytes: count => randomBytes(count),
  }
}
