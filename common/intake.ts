import type { Channel } from './channel.ts'
import type { Clock, Timer } from './env.ts'
import { SECOND_MS } from './limits.ts'
import { CLOSE } from './wire.ts'

/** What one connection to a hub has under way: at its bounds the connection is not read, and an orderly end waits for it. */

/** How long `drain` waits for what the engine has. */
const DRAIN_TIMEOUT_MS = 10 * SECOND_MS

export interface IntakeOptions {
  clock: Clock
  channel: Pick<Channel, 'pause' | 'resume' | 'close'>
  /** At these the channel is paused, until half of each is left. */
  maxBytes: number
  maxCount: number
  /** Told each time that it is paused for that. */
  paused(): void
  /** The last word before the close. */
  leaving(): void
}

export interface Intake {
  /** Something came that will be `done`, and costs so many bytes until then. */
  began(costBytes: number): void
  done(costBytes: number): void
  /** Reads no more, waits for what is under way and closes with `goingAway`. Resolves when closed. */
  drain(): Promise<void>
  /** Frames that still come are to be dropped. */
  isDraining(): boolean
  /** The channel is closed, for whatever reason. */
  closed(): void
}

/** Nothing is under way yet. */
export function createIntake(options: IntakeOptions): Intake {
  const { clock, channel, maxBytes, maxCount } = options
  const { promise: whenClosed, resolve } = Promise.withResolvers<void>()
  let state: 'open' | 'draining' | 'closed' = 'open'
  let count = 0
  let bytes = 0
  let reading = true
  let timer: Timer | null = null

  function goAway(): void {
    if (state !== 'draining') return
    options.leaving()
    channel.close(CLOSE.goingAway, 'the hub stops')
  }

  function look(): void {
    if (state === 'draining') {
      // After what this turn still owes.
      if (count === 0) clock.soon(goAway)
    } else if (reading && (count >= maxCount || bytes > maxBytes)) {
      reading = false
      options.paused()
      channel.pause()
    } else if (!reading && count <= maxCount / 2 && bytes <= maxBytes / 2) {
      reading = true
      channel.resume()
    }
  }

  return {
    began: costBytes => {
      count++
      bytes += costBytes
      look()
    },
    done: costBytes => {
      count--
      bytes -= costBytes
      look()
    },
    drain: () => {
      if (state === 'open') {
        state = 'draining'
        channel.pause()
        timer = clock.setTimer(goAway, DRAIN_TIMEOUT_MS)
        look()
      }
      return whenClosed
    },
    isDraining: () => state === 'draining',
    closed: () => {
      state = 'closed'
      timer?.cancel()
      resolve()
    },
  }
}
