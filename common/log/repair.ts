import { BATCH_HEADER_BYTES } from '../batch.ts'
import type { DiskFile } from '../env.ts'
import { isDiskFull, systemErrorCode, TributaryError } from '../errors.ts'
import { keepAside } from './aside.ts'
import type { CutDeps } from './cut.ts'
import { plainEntry } from './journal-format.ts'
import { withoutRepaired } from './recover-plan.ts'
import { crcFault, headerOr, offsetFault, readFully } from './scan.ts'
import type { Segment, SegmentedLog } from './segmented-log.ts'
import { dropIndex, MAX_SEGMENT_BYTES, MAX_SEGMENT_OFFSETS, newSegment } from './segmented-log.ts'
import type { Damage } from './types.ts'

/**
 * Putting batches of another replica where damage is. Replicas are equal byte for byte, so the bytes go to the very place
 * where the lost ones were, and nothing behind them moves: the journal and the checkpoint stay right. Writing there is
 * not atomic and need not be: what is there is bad, and known as damage until the commit that says otherwise.
 */

/** What a repair needs of the directory. */
export interface RepairDeps extends CutDeps {
  directory: string
}

interface Place {
  segment: Segment
  isNew: boolean
  /** Where in it the batches go. */
  position: number
  /** One past their last byte. */
  end: number
  /** One past the last offset that is good then. */
  endOffset: number
}

/** See Log.repairStretch. */
export async function repairStretch(
  log: SegmentedLog,
  wanted: Damage,
  batches: Uint8Array,
  deps: RepairDeps,
): Promise<Damage | undefined> {
  const { committer } = deps
  // What is on its way to the segment has its place there.
  await committer.settle()
  const damage = log.damage.find(known => isSame(known, wanted))
  if (damage === undefined) {
    throw new TributaryError(
      'not_found',
      `${log.name} knows of no damage at offsets ${wanted.fromOffset} to ${wanted.toOffset}: look at it again`,
    )
  }
  const place = await placeFor(log, damage, batches, checkBatches(log, damage, batches), deps)
  await writeBatches(log, damage, place, batches, deps)
  // An entry behind the one that deletes the log would bring it back at the next start.
  if (log.deleted) throw new TributaryError('closed', `log ${log.name} is deleted`)
  const entry = plainEntry('repair', log.id, log.name, damage.fromOffset)
  entry.endOffset = place.endOffset
  entry.segmentBase = place.segment.baseOffset
  entry.position = place.end
  await new Promise<void>((resolve, reject) => {
    const after = (): Promise<void> => applyRepair(log, damage, place, deps)
    committer.enqueue({ kind: 'fact', log, entry, after, resolve, reject })
    committer.hurry()
  })
  return log.damage.find(left => left.fromOffset === place.endOffset && left.toOffset === damage.toOffset)
}

function isSame(left: Damage, right: Damage): boolean {
  return left.fromOffset === right.fromOffset && left.toOffset === right.toOffset
}

/**
 * Throws unless the batches are good, and lie in the stretch from its start on without a hole. Where the log starts inside
 * the first one, that begins before the stretch.
 */
function checkBatches(
  log: SegmentedLog,
  damage: Damage,
  batches: Uint8Array,
): { baseOffset: number; endOffset: number } {
  const refuse = (why: string): never => {
    throw new TributaryError(
      'corrupt_batch',
      `${damage.log} can't be repaired from offset ${damage.fromOffset} on (${why}): fetch those batches again`,
    )
  }
  const first = batches.length < BATCH_HEADER_BYTES ? 'no batches' : headerOr(batches, 0)
  if (typeof first === 'string') return refuse(first)
  const straddles = first.baseOffset < damage.fromOffset && first.lastOffset >= damage.fromOffset
  const baseOffset = straddles && damage.fromOffset === log.startOffset ? first.baseOffset : damage.fromOffset
  let expected = baseOffset
  for (let at = 0; at < batches.length; ) {
    const header = headerOr(batches, at)
    if (typeof header === 'string') return refuse(header)
    if (header.sizeBytes > batches.length - at) return refuse('half a batch')
    const fault = offsetFault(header, expected) ?? crcFault(batches, at, header)
    if (fault !== undefined) return refuse(fault)
    expected = header.lastOffset + 1
    at += header.sizeBytes
  }
  if (expected > damage.toOffset) refuse(`they reach offset ${expected}, beyond the damage`)
  return { baseOffset, endOffset: expected }
}

async function placeFor(
  log: SegmentedLog,
  damage: Damage,
  batches: Uint8Array,
  { baseOffset, endOffset }: { baseOffset: number; endOffset: number },
  deps: RepairDeps,
): Promise<Place> {
  const { fromOffset, toOffset, bytePosition, resumePosition } = damage
  const found = log.segments[log.segmentAt(fromOffset)]
  const create = (): Place => {
    const segment = newSegment(log.folder, baseOffset)
    return { segment, isNew: true, position: 0, end: batches.length, endOffset }
  }
  if (found === undefined || found.baseOffset > fromOffset) return create()
  // It may be one that a crash left of an earlier try, or the one before the damaged one, which is missing.
  const startsThere = found.baseOffset === baseOffset
  if (!startsThere && damage.segment !== `${found.path}.log`) return create()
  const position = startsThere ? 0 : bytePosition
  const end = position + batches.length
  const place = { segment: found, isNew: false, position, end, endOffset }
  const tooLarge = end > MAX_SEGMENT_BYTES || endOffset - found.baseOffset >= MAX_SEGMENT_OFFSETS
  if (resumePosition >= 0) {
    if (end === resumePosition && endOffset < toOffset && (await jumpsTo(found, damage, endOffset, deps)))
      return { ...place, endOffset: toOffset }
    if (end > resumePosition || (end === resumePosition) !== (endOffset === toOffset)) misfit(damage)
    return place
  }
  // All that the segment holds may be good, and what followed it be missing.
  const isWhole = found.sizeBytes <= position
  if (isWhole && found.sizeBytes > 0 && (tooLarge || end > log.options.segmentBytes)) return create()
  if (tooLarge || (endOffset === toOffset && end < found.sizeBytes)) misfit(damage)
  return place
}

/** Whether what follows the damage is a jump from `endOffset` on, so that nothing is missing before it. */
async function jumpsTo(
  segment: Segment,
  damage: Damage,
  endOffset: number,
  { files }: RepairDeps,
): Promise<boolean> {
  const bytes = Buffer.alloc(BATCH_HEADER_BYTES)
  const got = await files.use(`${segment.path}.log`, file =>
    readFully(file, bytes, bytes.length, damage.resumePosition),
  )
  const header = got < bytes.length ? 'short' : headerOr(bytes, 0)
  return typeof header !== 'string' && header.isControl && header.baseOffset > endOffset
}

function misfit(damage: Damage): never {
  throw new TributaryError(
    'corrupt_log',
    `${damage.log} has other room at offsets ${damage.fromOffset} to ${damage.toOffset} than the batches need: cut or restart it, and fetch it again`,
    { details: { ...damage } },
  )
}

async function writeBatches(
  log: SegmentedLog,
  damage: Damage,
  place: Place,
  batches: Uint8Array,
  deps: RepairDeps,
): Promise<void> {
  const { disk, files, committer, directory } = deps
  const path = `${place.segment.path}.log`
  const write = async (file: DiskFile): Promise<void> => {
    if (place.isNew) await file.truncate(0)
    await file.writev([batches], place.position)
  }
  try {
    if (place.isNew) await files.write(path, write)
    else {
      const to = damage.resumePosition < 0 ? place.segment.sizeBytes : damage.resumePosition
      const stretch = { name: log.name, path, from: place.position, to }
      if (to > place.position) await keepAside(disk, files, directory, stretch)
      await files.rewrite(path, write)
    }
  } catch (error) {
    if (isDiskFull(error)) {
      throw new TributaryError('disk_full', `no space left to repair ${log.name}: free some`, {
        cause: error,
      })
    }
    if (systemErrorCode(error) === 'ENOENT')
      throw new TributaryError('not_available', `${path} is being removed: look at the damage again`)
    throw error
  }
  try {
    await files.sync(path)
    // Also where the file was there: a process that was killed may have made it.
    await disk.syncDir(log.folder)
  } catch (error) {
    throw committer.fail(error)
  }
}

async function applyRepair(
  log: SegmentedLog,
  damage: Damage,
  place: Place,
  { disk, indexes }: RepairDeps,
): Promise<void> {
  const { segment, end, endOffset } = place
  log.cuts++
  // Retention took it meanwhile.
  if (!place.isNew && !log.segments.includes(segment)) return
  if (place.isNew) {
    const at = log.segments.findIndex(other => other.baseOffset > segment.baseOffset)
    log.segments.splice(at < 0 ? log.segments.length : at, 0, segment)
    const index = log.segments.indexOf(segment)
    const before = log.segments[index - 1]
    if (before !== undefined) before.endOffset = segment.baseOffset
    segment.endOffset = log.segments[index + 1]?.baseOffset ?? log.durableEndOffset
  }
  segment.sizeBytes = Math.max(segment.sizeBytes, end)
  segment.writtenBytes = Math.max(segment.writtenBytes, end)
  segment.maxEventTimeMs = undefined
  indexes.forget(segment)
  await dropIndex(segment, disk)
  const wasIsolated = log.isolated.delete(damage)
  log.damage = withoutRepaired(log.damage, {
    firstOffset: damage.fromOffset,
    endOffset,
    segmentBase: segment.baseOffset,
    position: end,
  })
  for (const left of log.damage)
    if (wasIsolated && left.fromOffset === endOffset && left.toOffset === damage.toOffset)
      log.isolated.add(left)
  for (const known of log.isolated) if (!log.damage.includes(known)) log.isolated.delete(known)
}
