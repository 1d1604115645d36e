import type { Checkpoint, CheckpointLog } from './checkpoint.ts'
import type { JournalEntry } from './journal-format.ts'
import { segmentPath } from './paths.ts'
import type { JournalRecord } from './recover-journal.ts'
import type { Damage } from './types.ts'

/** What recovery is going to do, worked out from the checkpoint and the journal's commits alone. No I/O here. */

/** Bytes of a segment that the journal holds. */
export interface Replay {
  segmentBase: number
  position: number
  length: number
  firstOffset: number
  half: number
  /** Where in the half. */
  payloadAt: number
  /** Undefined where a cut took the end of it. */
  crc: number | undefined
}

/** The state that one log must be brought to. */
export interface LogPlan {
  id: number
  name: string
  startOffset: number
  /** The durable end: offset, and place in the last segment. */
  endOffset: number
  segmentBase: number
  position: number
  /** Known ends of segments, by base: bytes past them were never acked (a write that failed half way). */
  ends: Map<number, number>
  firstTimeMs: number | undefined
  lastTimeMs: number | undefined
  replays: Replay[]
  /** Batches are checked from here on: the checkpoint vouches for what lies before. */
  verify: { segmentBase: number; position: number; offset: number } | undefined
  /** A cut or restart was replayed: bytes past the end are what it left, not a torn tail. */
  wasCut: boolean
  damage: Damage[]
}

export interface RecoveryPlan {
  logs: Map<number, LogPlan>
  removing: Set<string>
  nextLogId: number
}

export function planOf(checkpoint: Pick<Checkpoint, 'logs' | 'removing' | 'nextLogId'>): RecoveryPlan {
  return {
    logs: new Map(checkpoint.logs.map(log => [log.id, newLogPlan(log)])),
    removing: new Set(checkpoint.removing),
    nextLogId: checkpoint.nextLogId,
  }
}

/** A log as the checkpoint has it, before anything is replayed. */
export function newLogPlan(log: CheckpointLog): LogPlan {
  const { segmentBase, position, endOffset } = log
  return {
    id: log.id,
    name: log.name,
    startOffset: log.startOffset,
    endOffset,
    segmentBase,
    position,
    ends: new Map(segmentBase < 0 ? [] : [[segmentBase, position]]),
    firstTimeMs: log.firstTimeMs,
    lastTimeMs: log.lastTimeMs,
    replays: [],
    verify: segmentBase < 0 ? undefined : endOf(log),
    wasCut: false,
    damage: [...(log.damage ?? [])],
  }
}

/** Where a log's last segment ends, and at which offset; before what is damaged there, if its end is. */
function endOf(log: CheckpointLog): NonNullable<LogPlan['verify']> {
  const { segmentBase, position, endOffset } = log
  const damage = log.damage?.find(known => known.toOffset === endOffset && known.resumePosition < 0)
  if (damage === undefined) return { segmentBase, position, offset: endOffset }
  const isHere = damage.segment.endsWith(`${segmentPath('', segmentBase)}.log`)
  return {
    segmentBase,
    position: isHere ? Math.min(position, damage.bytePosition) : position,
    offset: damage.fromOffset,
  }
}

/** Takes one commit into the plan. */
export function replayRecord(plan: RecoveryPlan, record: JournalRecord): void {
  record.entries.forEach((entry, at) => {
    replayEntry(plan, entry, record.half, record.payloadAt[at] ?? -1)
  })
}

function replayEntry(plan: RecoveryPlan, entry: JournalEntry, half: number, payloadAt: number): void {
  plan.nextLogId = Math.max(plan.nextLogId, entry.logId + 1)
  if (entry.kind === 'delete') {
    if (plan.logs.delete(entry.logId)) plan.removing.add(entry.name)
    return
  }
  let log = plan.logs.get(entry.logId)
  if (log === undefined) {
    // Any entry tells that the log was there, should the record that created it be damaged.
    log = newLogPlan({
      id: entry.logId,
      name: entry.name,
      startOffset: 0,
      endOffset: 0,
      segmentBase: -1,
      position: 0,
    })
    plan.logs.set(entry.logId, log)
    plan.removing.delete(entry.name)
  }
  if (entry.kind === 'start') log.startOffset = Math.max(log.startOffset, entry.firstOffset)
  else if (entry.kind === 'cut') replayCut(log, entry)
  else if (entry.kind === 'restart') replayRestart(log, entry.firstOffset)
  else if (entry.kind === 'repair') replayRepair(log, entry)
  else if (entry.kind === 'data') replayData(log, entry, half, payloadAt)
}

function replayData(log: LogPlan, entry: JournalEntry, half: number, payloadAt: number): void {
  const { segmentBase, position, length, firstOffset, crc, appendTimeMs } = entry
  log.replays.push({ segmentBase, position, length, firstOffset, half, payloadAt, crc })
  log.verify ??= { segmentBase, position, offset: firstOffset }
  if (log.segmentBase !== segmentBase) {
    log.firstTimeMs = appendTimeMs
    log.lastTimeMs = appendTimeMs
  }
  log.firstTimeMs ??= appendTimeMs
  log.lastTimeMs = Math.max(log.lastTimeMs ?? appendTimeMs, appendTimeMs)
  log.segmentBase = segmentBase
  log.position = position + length
  log.ends.set(segmentBase, position + length)
  log.endOffset = entry.endOffset
}

function replayCut(log: LogPlan, entry: JournalEntry): void {
  const { segmentBase, position, firstOffset } = entry
  const kept: Replay[] = []
  for (const replay of log.replays) {
    if (replay.segmentBase > segmentBase) continue
    if (replay.segmentBase === segmentBase && replay.position >= position) continue
    const straddles = replay.segmentBase === segmentBase && replay.position + replay.length > position
    kept.push(straddles ? { ...replay, length: position - replay.position, crc: undefined } : replay)
  }
  log.replays = kept
  const { verify } = log
  const place = { segmentBase, position, offset: firstOffset }
  if (segmentBase < 0) log.verify = undefined
  else if (verify === undefined || isBefore(place, verify)) log.verify = place
  if (log.segmentBase !== segmentBase) {
    log.firstTimeMs = undefined
    log.lastTimeMs = undefined
  }
  log.segmentBase = segmentBase
  log.position = position
  for (const base of [...log.ends.keys()]) if (base > segmentBase) log.ends.delete(base)
  log.ends.set(segmentBase, position)
  log.endOffset = firstOffset
  log.wasCut = true
  log.damage = log.damage.filter(damage => damage.fromOffset < firstOffset)
}

function replayRestart(log: LogPlan, offset: number): void {
  log.startOffset = offset
  log.endOffset = offset
  log.segmentBase = -1
  log.position = 0
  log.ends.clear()
  log.firstTimeMs = undefined
  log.lastTimeMs = undefined
  log.replays = []
  log.verify = undefined
  log.wasCut = true
  log.damage = []
}

function replayRepair(log: LogPlan, entry: JournalEntry): void {
  const { segmentBase, position } = entry
  const known = log.ends.get(segmentBase)
  // Of a closed segment no end is noted: it ends where its file does.
  if (known !== undefined || segmentBase > (log.verify?.segmentBase ?? -1))
    log.ends.set(segmentBase, Math.max(known ?? 0, position))
  if (segmentBase >= log.segmentBase) {
    log.position = segmentBase > log.segmentBase ? position : Math.max(log.position, position)
    log.segmentBase = segmentBase
  }
  // The segment may have ended there in the middle of a batch, which nobody knew of yet.
  if (log.verify?.segmentBase === segmentBase && log.verify.position < position)
    log.verify = { segmentBase, position: 0, offset: segmentBase }
  log.damage = withoutRepaired(log.damage, entry)
}

/** Damage as it is once [firstOffset, endOffset) is whole: gone, or what is left, from `position` in a segment on. */
export function withoutRepaired(
  damages: readonly Damage[],
  repaired: Pick<JournalEntry, 'firstOffset' | 'endOffset' | 'segmentBase' | 'position'>,
): Damage[] {
  const { firstOffset, endOffset, segmentBase, position } = repaired
  return damages.flatMap(damage => {
    if (damage.fromOffset < firstOffset || damage.fromOffset >= endOffset) return [damage]
    if (damage.toOffset <= endOffset) return []
    const folder = damage.segment.slice(0, damage.segment.lastIndexOf('/'))
    const segment = `${segmentPath(folder, segmentBase)}.log`
    return [{ ...damage, fromOffset: endOffset, bytePosition: position, segment }]
  })
}

function isBefore(
  left: { segmentBase: number; position: number },
  right: { segmentBase: number; position: number },
): boolean {
  if (left.segmentBase !== right.segmentBase) return left.segmentBase < right.segmentBase
  return left.position < right.position
}
