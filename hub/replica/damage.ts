import { isTributaryError, TributaryError } from '../../common/errors.ts'
import type { Damage, Log, ReadResult } from '../../common/log/types.ts'
import type { OnDamage } from './log-access.ts'

/**
 * Damaged stretches of a replica's log. Where other replicas may still have what was there, nobody is let past a stretch before it is
 * repaired; where nobody has, it is given up: told of as a loss and passed over.
 */
export interface DamageKeeper {
  /** As Log.read, up to a stretch that may be repaired; within it `not_available`. */
  read(offset: number, maxBytes: number, limitOffset?: number): Promise<ReadResult>
  /** Stretches that may be repaired. */
  waiting(): Damage[]
  /** Nobody else has it. `tells`: it is this replica's to say so. */
  giveUp(damage: Damage, tells: boolean): void
  /** The leader lost what lies in [fromOffset, toOffset) and has said so. */
  lostByLeader(fromOffset: number, toOffset: number): void
  /** The log was cut at `offset`: what is damaged from there on one day is another stretch. */
  cutAfter(offset: number): void
  /** There are no other replicas to ask: what is damaged is lost, now and when it is found. */
  setAlone(isAlone: boolean): void
}

export interface DamageContext {
  name: string
  log: Log
  /** A stretch was given up by the one who tells. */
  onLost: OnDamage
  /** A read found a stretch that may be repaired. */
  onFound(): void
}

export function createDamageKeeper({ name, log, onLost, onFound }: DamageContext): DamageKeeper {
  /** Where each stretch ends that is given up. */
  const given = new Map<string, number>()
  let alone = false

  const keyOf = ({ fromOffset, toOffset }: Pick<Damage, 'fromOffset' | 'toOffset'>): string =>
    `${fromOffset}-${toOffset}`

  function waiting(): Damage[] {
    return log.damage().filter(damage => !given.has(keyOf(damage)))
  }

  function giveUp(damage: Damage, tells: boolean): void {
    if (given.has(keyOf(damage))) return
    given.set(keyOf(damage), damage.toOffset)
    if (tells) onLost(damage)
    log.isolate(damage)
  }

  /** The first stretch at or behind `offset` that nobody is let past. */
  function firstFrom(offset: number): Damage | undefined {
    if (log.damage().length === 0) return undefined
    const behind = waiting().filter(damage => damage.toOffset > offset)
    return behind.toSorted((left, right) => left.fromOffset - right.fromOffset)[0]
  }

  function found(error: unknown): boolean {
    if (!isTributaryError(error, 'corrupt_log')) return false
    const { fromOffset, toOffset } = error.details
    const damage = log.damage().find(one => one.fromOffset === fromOffset && one.toOffset === toOffset)
    // Passed over already, and corrupt all the same: reading again would not end.
    if (damage === undefined || given.has(keyOf(damage))) return false
    if (alone) giveUp(damage, true)
    else onFound()
    return true
  }

  return {
    read: async (offset, maxBytes, limitOffset = Number.MAX_SAFE_INTEGER) => {
      for (;;) {
        const first = firstFrom(offset)
        if (first !== undefined && offset >= first.fromOffset) throw awaitsRepair(name, first)
        const limit = first === undefined ? limitOffset : Math.min(limitOffset, first.fromOffset)
        try {
          return await log.read(offset, maxBytes, limit)
        } catch (error) {
          if (!found(error)) throw error
        }
      }
    },
    waiting,
    giveUp,
    // The log knows of it once it is durable, and lets reads pass then.
    lostByLeader: (fromOffset, toOffset) => void given.set(keyOf({ fromOffset, toOffset }), toOffset),
    cutAfter: offset => {
      for (const [key, toOffset] of given) if (toOffset > offset) given.delete(key)
    },
    setAlone: isAlone => {
      alone = isAlone
      if (alone) for (const damage of waiting()) giveUp(damage, true)
    },
  }
}

function awaitsRepair(name: string, { fromOffset, toOffset }: Damage): TributaryError {
  return new TributaryError(
    'not_available',
    `${name}: offsets ${fromOffset} to ${toOffset} are damaged on this disk and fetched from another replica; try again`,
    { details: { fromOffset, toOffset } },
  )
}

/** The refusal of a replica that can't lead before its log is whole again. */
export function underRepair(name: string): TributaryError {
  const message = `${name}: what is damaged of it is fetched from another replica; try again`
  return new TributaryError('not_available', message)
}
