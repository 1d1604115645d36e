import { crc32c } from '../crc32c.ts'
import type { Clock, Disk, DiskFile } from '../env.ts'
import { keepAside } from './aside.ts'
import type { FilePool } from './files.ts'
import { logFolder, segmentBases, segmentPath } from './paths.ts'
import { rangeCrc } from './recover-journal.ts'
import type { LogPlan, Replay } from './recover-plan.ts'
import { readFully, resync, scanBatches, scanBuffers } from './scan.ts'
import type { Segment } from './segmented-log.ts'
import { newSegment, removeSegment, SegmentedLog } from './segmented-log.ts'
import type { LogOptions, RecoveryReport } from './types.ts'

/** Bringing one log to what recovery's plan says of it. */

const COPY_BYTES = 1024 * 1024

export interface RecoverInput {
  disk: Disk
  clock: Clock
  files: FilePool
  directory: string
  journalId: Uint8Array
  /** Until a log is opened with its own. */
  defaultOptions: LogOptions
}

/** One recovery under way. */
export interface Run extends RecoverInput {
  report: RecoveryReport
  halves: (DiskFile | undefined)[]
  /** Segments written or cut. */
  dirty: Set<string>
  folders: Set<string>
  /** Commits are missing from the journal, or the checkpoint is: valid batches past the known end may have been acked. */
  adopt: boolean
}

/** Replays, cuts, opens and checks a log. */
export async function recoverLog(run: Run, plan: LogPlan): Promise<SegmentedLog> {
  const { disk, directory } = run
  const folder = logFolder(directory, plan.name)
  await disk.mkdir(folder)
  let bases = segmentBases(await disk.list(folder))
  const replayed = applicableReplays(run, plan, bases)
  for (const base of new Set(replayed.map(replay => replay.segmentBase)))
    if (!bases.includes(base)) bases.push(base)
  bases.sort((left, right) => left - right)
  await replaySegments(run, plan, folder, replayed)
  if (run.adopt) await adoptBeyond(run, plan, folder, bases)
  bases = await cutBeyond(run, plan, folder, bases)
  const log = new SegmentedLog(plan.id, plan.name, folder, run.defaultOptions)
  log.created = true
  log.startOffset = plan.startOffset
  log.endAt(plan.endOffset)
  log.damage = plan.damage
  log.forgetDamageBelowStart()
  const segments = await openSegments(run, folder, bases)
  log.segments = await dropBelow(run, plan, segments)
  setEnds(log)
  const active = log.active()
  if (active !== undefined) {
    active.firstTimeMs = plan.firstTimeMs
    active.lastTimeMs = plan.lastTimeMs
  }
  checkStart(run, plan, log)
  await checkEnd(run, plan, log)
  if (!run.report.cleanShutdown) await verifyBatches(run, plan, log)
  for (const damage of log.damage) log.isolated.add(damage)
  log.rollNext = log.damage.some(damage => damage.toOffset === log.endOffset)
  return log
}

/** Replays to segments that retention took since have no file any more, and none should come back. */
function applicableReplays(run: Run, plan: LogPlan, bases: readonly number[]): Replay[] {
  // Others were removed by a cut, which a power cut took back.
  const real = bases.filter(base => knownEnd(run, plan, base) > 0)
  const known = [...real, plan.segmentBase, ...plan.replays.map(replay => replay.segmentBase)]
  const all = [...new Set(known)].sort((left, right) => left - right)
  return plan.replays.filter(replay => {
    const next = all[all.indexOf(replay.segmentBase) + 1]
    return next === undefined || next > plan.startOffset
  })
}

/**
 * Writes what the journal holds into the segments, also where they seem to hold it: what is read may be a page that the
 * disk never took (a failed fdatasync leaves such behind), and only writing it again makes syncing it mean something.
 */
async function replaySegments(
  run: Run,
  plan: LogPlan,
  folder: string,
  replays: readonly Replay[],
): Promise<void> {
  for (const replay of replays) {
    const path = segmentPath(folder, replay.segmentBase)
    const half = run.halves[replay.half]
    const { position, length } = replay
    const copied = half !== undefined && (await copyReplay(run, half, replay, `${path}.log`))
    if (!copied && (await run.disk.exists(`${path}.log`))) {
      // Damaged in the journal: the segment's own bytes, which are checked batch by batch later.
      await run.files.use(`${path}.log`, file =>
        copyRange(run, file, position, `${path}.log`, position, length),
      )
    } else if (!copied) {
      // Nothing is left of it; what was in it is found missing when the log is checked.
      await run.files.write(`${path}.log`, file => file.sizeBytes())
    }
    run.dirty.add(path)
    run.folders.add(folder)
  }
  if (plan.wasCut) run.folders.add(folder)
}

/** Writes what the journal holds for a segment into it; false where that is damaged. */
async function copyReplay(run: Run, half: DiskFile, replay: Replay, path: string): Promise<boolean> {
  const { position, length, crc, payloadAt } = replay
  if (length > COPY_BYTES) {
    const journaled = await rangeCrc(half, payloadAt, length)
    if (journaled === undefined || (crc !== undefined && journaled !== crc)) return false
    await copyRange(run, half, payloadAt, path, position, length)
    return true
  }
  // Most are small, and there may be a hundred thousand of them: one read each.
  const buffer = scanBuffers.take(length)
  try {
    const bytes = buffer.subarray(0, length)
    if ((await readFully(half, bytes, length, payloadAt)) < length) return false
    if (crc !== undefined && crc32c(bytes) !== crc) return false
    await run.files.write(path, file => file.writev([bytes], position))
    return true
  } finally {
    scanBuffers.give(buffer)
  }
}

async function copyRange(
  run: Run,
  from: DiskFile,
  fromPosition: number,
  path: string,
  position: number,
  length: number,
): Promise<void> {
  const buffer = scanBuffers.take(Math.min(length, COPY_BYTES))
  try {
    for (let done = 0; done < length; ) {
      const got = await readFully(from, buffer, Math.min(buffer.length, length - done), fromPosition + done)
      if (got === 0) return
      await run.files.write(path, file => file.writev([buffer.subarray(0, got)], position + done))
      done += got
    }
  } finally {
    scanBuffers.give(buffer)
  }
}

/**
 * Moves the plan's end over the valid batches that follow it, also past bad ones: acked perhaps, in a commit that was
 * lost. What is bad between them is found as damage later.
 */
export async function adoptBeyond(
  run: Run,
  plan: LogPlan,
  folder: string,
  bases: readonly number[],
): Promise<void> {
  for (const base of bases) {
    if (base < plan.segmentBase || (base > plan.segmentBase && base < plan.endOffset)) continue
    const path = segmentPath(folder, base)
    await run.files.use(`${path}.log`, async file => {
      const toPosition = await file.sizeBytes()
      const from = base === plan.segmentBase ? plan.position : 0
      let position = from
      let offset = base === plan.segmentBase ? plan.endOffset : base
      while (position < toPosition) {
        const result = await scanBatches(
          file,
          { fromPosition: position, toPosition, offset },
          true,
          () => undefined,
        )
        if (result.position > position) {
          plan.verify ??= { segmentBase: base, position: from, offset: plan.endOffset }
          plan.segmentBase = base
          plan.position = result.position
          plan.endOffset = result.offset
        }
        if (result.bad === undefined) break
        const good = await resync(
          file,
          result.position + 1,
          toPosition,
          result.offset,
          Number.MAX_SAFE_INTEGER,
        )
        if (good === undefined) break
        position = good.position
        offset = good.offset
      }
      if (plan.segmentBase !== base || plan.position === from) return
      await copyRange(run, file, from, `${path}.log`, from, plan.position - from)
      run.dirty.add(path)
      run.folders.add(folder)
    })
  }
}

/** Cuts what lies past the durable end, and tells of it. */
async function cutBeyond(
  run: Run,
  plan: LogPlan,
  folder: string,
  bases: readonly number[],
): Promise<number[]> {
  const kept: number[] = []
  for (const base of bases) {
    const path = segmentPath(folder, base)
    const end = knownEnd(run, plan, base)
    const size = await run.files.use(`${path}.log`, file => file.sizeBytes())
    if (size > end) await cutTail(run, plan, path, end, size)
    else if (base !== plan.segmentBase && plan.ends.has(base) && !run.report.cleanShutdown) {
      // Its end may be that of a truncation (a full disk) that is in memory alone, and nothing will say later where it ends.
      await run.files.distrust(`${path}.log`)
      run.dirty.add(path)
    }
    if (end > 0 || base === plan.segmentBase) kept.push(base)
    else {
      await removeSegment(newSegment(folder, base), run.disk, run.files)
      run.folders.add(folder)
    }
  }
  return kept
}

/** Where acked bytes end in a segment; 0 for one that a failed commit or a cut left behind, infinite where not known. */
function knownEnd(run: Run, plan: LogPlan, base: number): number {
  if (base === plan.segmentBase) return plan.position
  if (base > plan.segmentBase) return 0
  const known = plan.ends.get(base)
  if (known !== undefined) return known
  const since = plan.verify?.segmentBase ?? -1
  return base > since && !run.adopt ? 0 : Number.POSITIVE_INFINITY
}

async function cutTail(run: Run, plan: LogPlan, path: string, end: number, size: number): Promise<void> {
  const file = `${path}.log`
  if (!plan.wasCut) {
    const keptAs = await keepAside(run.disk, run.files, run.directory, {
      name: plan.name,
      path: file,
      from: end,
      to: size,
    })
    run.report.tornTails.push({ log: plan.name, fromOffset: plan.endOffset, cutBytes: size - end, keptAs })
  }
  await run.files.write(file, open => open.truncate(end))
  await run.disk.remove(`${path}.index`)
  await run.disk.remove(`${path}.timeindex`)
  await run.disk.remove(`${path}.meta`)
  run.dirty.add(path)
}

async function openSegments(run: Run, folder: string, bases: readonly number[]): Promise<Segment[]> {
  const segments: Segment[] = []
  for (const base of bases) {
    const segment = newSegment(folder, base)
    segment.sizeBytes = await run.files.use(`${segment.path}.log`, file => file.sizeBytes())
    segment.writtenBytes = segment.sizeBytes
    segments.push(segment)
  }
  return segments
}

async function dropBelow(run: Run, plan: LogPlan, segments: readonly Segment[]): Promise<Segment[]> {
  const kept: Segment[] = []
  for (let at = 0; at < segments.length; at++) {
    const segment = segments[at]
    const next = segments[at + 1]
    if (segment === undefined) continue
    // All was truncated away, the last segment too: one that a crash brought back is not where the log goes on.
    const isEmpty =
      plan.startOffset >= plan.endOffset &&
      (segment.baseOffset !== plan.segmentBase || segment.sizeBytes < plan.position)
    const below = next !== undefined ? next.baseOffset <= plan.startOffset : plan.segmentBase < 0 || isEmpty
    if (below) {
      await removeSegment(segment, run.disk, run.files)
      run.dirty.delete(segment.path)
    } else kept.push(segment)
  }
  return kept
}

function setEnds(log: SegmentedLog): void {
  log.segments.forEach((segment, at) => {
    segment.endOffset = log.segments[at + 1]?.baseOffset ?? log.durableEndOffset
  })
}

/** A first segment that begins past the log's start: what should be before it is lost. */
function checkStart(run: Run, plan: LogPlan, log: SegmentedLog): void {
  const first = log.segments[0]
  if (first === undefined || first.baseOffset <= plan.startOffset) return
  const { startOffset: fromOffset } = plan
  if (log.damage.some(known => known.fromOffset <= fromOffset && known.toOffset >= first.baseOffset)) return
  addDamage(run, log, {
    fromOffset,
    toOffset: first.baseOffset,
    segment: `${segmentPath(log.folder, fromOffset)}.log`,
    bytePosition: 0,
    resumePosition: -1,
    reason: 'the segments before the first one found are missing',
  })
}

/** A log whose last segment is shorter than it was known to be lost acked batches: damage up to its end. */
async function checkEnd(run: Run, plan: LogPlan, log: SegmentedLog): Promise<void> {
  if (plan.segmentBase < 0 || plan.position === 0) return
  const active = log.active()
  const whole = active?.baseOffset === plan.segmentBase && active.sizeBytes >= plan.position
  if (whole) return
  const known = log.damage.some(damage => damage.toOffset === plan.endOffset && damage.resumePosition < 0)
  if (known && active?.baseOffset === plan.segmentBase) return
  const found =
    active === undefined
      ? { position: 0, offset: plan.startOffset }
      : await goodEnd(run, active, plan.endOffset)
  const { offset: fromOffset, position } = found
  // All of it was truncated away, files included.
  if (fromOffset >= plan.endOffset) return
  run.report.belowDurableEnd = true
  addDamage(run, log, {
    fromOffset,
    toOffset: plan.endOffset,
    segment: `${active?.path ?? segmentPath(log.folder, plan.segmentBase)}.log`,
    bytePosition: position,
    resumePosition: -1,
    reason: 'the segment is shorter than what was durable in it',
  })
}

/** Where the last good batch of a segment ends. */
async function goodEnd(
  run: Run,
  segment: Segment,
  endOffset: number,
): Promise<{ position: number; offset: number }> {
  return run.files.use(`${segment.path}.log`, async file => {
    const toPosition = segment.sizeBytes
    let from = { position: 0, offset: segment.baseOffset }
    for (;;) {
      const range = { fromPosition: from.position, toPosition, offset: from.offset }
      const { position, offset, bad } = await scanBatches(file, range, true, () => undefined)
      const good =
        bad === undefined ? undefined : await resync(file, position + 1, toPosition, offset, endOffset)
      if (good === undefined) return { position, offset }
      from = good
    }
  })
}

function addDamage(run: Run, log: SegmentedLog, damage: Omit<SegmentedLog['damage'][number], 'log'>): void {
  const full = { log: log.name, ...damage }
  log.damage.push(full)
  run.report.damage.push(full)
}

/** Checks the batches from where the checkpoint vouches for nothing on to the durable end. */
async function verifyBatches(run: Run, plan: LogPlan, log: SegmentedLog): Promise<void> {
  const from = plan.verify
  if (from === undefined) return
  for (const segment of log.segments) {
    if (segment.baseOffset < from.segmentBase) continue
    const here = segment.baseOffset === from.segmentBase
    let position = here ? from.position : 0
    let offset = here ? Math.max(from.offset, segment.baseOffset) : segment.baseOffset
    await run.files.use(`${segment.path}.log`, async file => {
      for (;;) {
        const range = { fromPosition: position, toPosition: segment.sizeBytes, offset }
        const result = await scanBatches(file, range, true, () => undefined)
        const endsWell = result.bad === undefined && result.offset === segment.endOffset
        if (
          endsWell ||
          log.damage.some(known => known.fromOffset <= result.offset && known.toOffset >= segment.endOffset)
        )
          return
        const good =
          result.bad === undefined
            ? undefined
            : await resync(file, result.position + 1, segment.sizeBytes, result.offset, segment.endOffset)
        if (result.offset >= segment.endOffset && good === undefined && result.position >= segment.sizeBytes)
          return
        const end = good ?? log.damageEnd(segment, result.offset, segment.endOffset)
        addDamage(run, log, {
          fromOffset: result.offset,
          toOffset: end.offset,
          segment: `${segment.path}.log`,
          bytePosition: result.position,
          resumePosition: end.position,
          reason: result.bad ?? `it ends at offset ${result.offset}, not ${segment.endOffset}`,
        })
        await keepAside(run.disk, run.files, run.directory, {
          name: log.name,
          path: `${segment.path}.log`,
          from: result.position,
          to: good?.position ?? segment.sizeBytes,
        })
        if (good === undefined) return
        position = good.position
        offset = good.offset
      }
    })
  }
}
