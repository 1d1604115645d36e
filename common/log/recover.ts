import type { Clock, Disk, DiskFile } from '../env.ts'
import { systemErrorCode } from '../errors.ts'
import { keepAside } from './aside.ts'
import type { Checkpoint } from './checkpoint.ts'
import { decodeCheckpoint } from './checkpoint.ts'
import type { FilePool } from './files.ts'
import { isSegmentFile, logFolder, segmentBases, segmentPath } from './paths.ts'
import type { JournalRecord } from './recover-journal.ts'
import { journalPath, rangeCrc, readJournal } from './recover-journal.ts'
import type { LogPlan, RecoveryPlan, Replay } from './recover-plan.ts'
import { newLogPlan, planOf, replayRecord } from './recover-plan.ts'
import { readFully, resync, scanBatches, scanBuffers } from './scan.ts'
import type { Segment } from './segmented-log.ts'
import { newSegment, removeSegment, SegmentedLog } from './segmented-log.ts'
import type { LogOptions, RecoveryReport } from './types.ts'
import { eachAtMost } from './work.ts'

/**
 * Bringing a directory back after whatever happened to it. The checkpoint says what the segments hold durably, the
 * journal what was committed since; whatever the segments lack of that is written again, what lies beyond it was
 * never acked and is cut. Nothing found here keeps the directory from opening.
 */

/** Logs recovered at once; each keeps a file open and a buffer. */
const LOGS_AT_ONCE = 8
const MAX_SYNCS_AT_ONCE = 4
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

export interface Recovered {
  logs: SegmentedLog[]
  removing: string[]
  nextLogId: number
  session: number
  nextCommit: number
  report: RecoveryReport
}

interface Run extends RecoverInput {
  report: RecoveryReport
  halves: (DiskFile | undefined)[]
  /** Segments written or cut. */
  dirty: Set<string>
  folders: Set<string>
  /** Commits are missing from the journal, or the checkpoint is: valid batches past the known end may have been acked. */
  adopt: boolean
}

/** Reads the checkpoint; undefined where it is missing or damaged. */
export async function readCheckpoint(disk: Disk, directory: string): Promise<Checkpoint | undefined> {
  try {
    return decodeCheckpoint(await disk.readFile(`${directory}/checkpoint`))
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return undefined
    throw error
  }
}

/** Recovers the directory; the caller then writes a checkpoint before anything is committed. */
export async function recover(input: RecoverInput): Promise<Recovered> {
  const startedMs = input.clock.monotonicMs()
  const { disk, directory, journalId } = input
  const checkpoint = await readCheckpoint(disk, directory)
  const report: RecoveryReport = {
    cleanShutdown: checkpoint?.cleanShutdown ?? false,
    belowDurableEnd: false,
    tornTails: [],
    damage: [],
    durationMs: 0,
  }
  const journal =
    checkpoint?.cleanShutdown === true
      ? { records: [], missing: 0 }
      : await readJournal(disk, directory, journalId, checkpoint?.session, checkpoint?.firstCommit ?? 0)
  const adopt = checkpoint === undefined || journal.missing > 0
  const run: Run = { ...input, report, halves: [], dirty: new Set(), folders: new Set(), adopt }
  const plan = checkpoint === undefined ? await planFromFolders(run, journal.records) : planOf(checkpoint)
  try {
    await openHalves(run)
    await dropTornCommit(run, journal.records)
    for (const record of journal.records) replayRecord(plan, record)
    if (adopt) noteJournalDamage(run, checkpoint === undefined, journal.missing)
    const logs: SegmentedLog[] = []
    await eachAtMost(LOGS_AT_ONCE, [...plan.logs.values()], async log => {
      logs.push(await recoverLog(run, log))
    })
    await eachAtMost(MAX_SYNCS_AT_ONCE, [...run.dirty], path => input.files.sync(`${path}.log`))
    await eachAtMost(MAX_SYNCS_AT_ONCE, [...run.folders], folder => disk.syncDir(folder))
    await removeDeleted(run, plan)
    const lastNumber = journal.records.at(-1)?.number ?? 0
    report.durationMs = input.clock.monotonicMs() - startedMs
    return {
      logs,
      removing: [],
      nextLogId: plan.nextLogId,
      session: (checkpoint?.session ?? journal.records.at(-1)?.session ?? 0) + 1,
      nextCommit: Math.max(checkpoint?.firstCommit ?? 1, lastNumber + 1),
      report,
    }
  } finally {
    for (const half of run.halves) await half?.close()
  }
}

async function openHalves(run: Run): Promise<void> {
  for (const half of [0, 1]) {
    const path = journalPath(run.directory, half)
    if (await run.disk.exists(path)) run.halves[half] = await run.disk.open(path, 'read')
  }
}

function noteJournalDamage(run: Run, noCheckpoint: boolean, missing: number): void {
  run.report.damage.push({
    log: '',
    fromOffset: 0,
    toOffset: 0,
    segment: `${run.directory}/${noCheckpoint ? 'checkpoint' : 'journal'}`,
    bytePosition: 0,
    resumePosition: -1,
    reason: noCheckpoint
      ? 'the checkpoint is missing or damaged: every log was scanned'
      : `${missing} commits are damaged in the journal: what segments hold of them was kept`,
  })
}

/** A last commit whose bytes are whole neither in the journal nor in the segments was never acked. */
async function dropTornCommit(run: Run, records: JournalRecord[]): Promise<void> {
  const last = records.at(-1)
  if (last === undefined) return
  for (let at = 0; at < last.entries.length; at++) {
    const entry = last.entries[at]
    if (entry === undefined || entry.kind !== 'data') continue
    const journaled = await replayCrc(run, last.half, last.payloadAt[at] ?? -1, entry.length)
    if (journaled === entry.crc) continue
    const path = `${segmentPath(logFolder(run.directory, entry.name), entry.segmentBase)}.log`
    if ((await segmentCrc(run, path, entry.position, entry.length)) === entry.crc) continue
    records.pop()
    return
  }
}

async function replayCrc(
  run: Run,
  half: number,
  payloadAt: number,
  length: number,
): Promise<number | undefined> {
  const file = run.halves[half]
  return file === undefined ? undefined : rangeCrc(file, payloadAt, length)
}

async function segmentCrc(
  run: Run,
  path: string,
  position: number,
  length: number,
): Promise<number | undefined> {
  if (!(await run.disk.exists(path))) return undefined
  return run.files.use(path, file => rangeCrc(file, position, length))
}

async function recoverLog(run: Run, plan: LogPlan): Promise<SegmentedLog> {
  const { disk, directory } = run
  const folder = logFolder(directory, plan.name)
  await disk.mkdir(folder)
  let bases = segmentBases(await disk.list(folder))
  const replayed = applicableReplays(plan, bases)
  for (const base of new Set(replayed.map(replay => replay.segmentBase)))
    if (!bases.includes(base)) bases.push(base)
  bases.sort((left, right) => left - right)
  await replaySegments(run, plan, folder, replayed)
  if (run.adopt) await adoptBeyond(run, plan, folder, bases)
  bases = await cutBeyond(run, plan, folder, bases)
  const log = new SegmentedLog(plan.id, plan.name, folder, run.defaultOptions)
  log.created = true
  log.startOffset = plan.startOffset
  log.endOffset = plan.endOffset
  log.durableEndOffset = plan.endOffset
  log.damage = plan.damage
  const segments = await openSegments(run, folder, bases)
  log.segments = await dropBelow(run, plan, segments)
  setEnds(log)
  const active = log.active()
  if (active !== undefined) {
    active.firstTimeMs = plan.firstTimeMs
    active.lastTimeMs = plan.lastTimeMs
  }
  await checkEnd(run, plan, log)
  if (!run.report.cleanShutdown) await verifyBatches(run, plan, log)
  for (const damage of log.damage) log.isolated.add(damage)
  log.rollNext = log.damage.some(damage => damage.toOffset === log.endOffset)
  return log
}

/** Replays to segments that retention took since have no file any more, and none should come back. */
function applicableReplays(plan: LogPlan, bases: readonly number[]): Replay[] {
  const known = [...bases, plan.segmentBase, ...plan.replays.map(replay => replay.segmentBase)]
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
    const { position, length, crc, payloadAt } = replay
    const journaled = half === undefined ? undefined : await rangeCrc(half, payloadAt, length)
    if (half !== undefined && journaled !== undefined && (crc === undefined || journaled === crc)) {
      await copyRange(run, half, payloadAt, `${path}.log`, position, length)
    } else if (await run.disk.exists(`${path}.log`)) {
      // Damaged in the journal: the segment's own bytes, which are checked batch by batch later.
      await run.files.use(`${path}.log`, file =>
        copyRange(run, file, position, `${path}.log`, position, length),
      )
    } else continue
    run.dirty.add(path)
    run.folders.add(folder)
  }
  if (plan.wasCut) run.folders.add(folder)
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
async function adoptBeyond(run: Run, plan: LogPlan, folder: string, bases: readonly number[]): Promise<void> {
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
    const below = next !== undefined ? next.baseOffset <= plan.startOffset : plan.segmentBase < 0
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

/** A log whose last segment is shorter than it was known to be lost acked batches: damage up to its end. */
async function checkEnd(run: Run, plan: LogPlan, log: SegmentedLog): Promise<void> {
  if (plan.segmentBase < 0 || plan.position === 0) return
  const active = log.active()
  const whole = active?.baseOffset === plan.segmentBase && active.sizeBytes >= plan.position
  if (whole) return
  const known = log.damage.some(damage => damage.toOffset === plan.endOffset && damage.resumePosition < 0)
  if (known && active?.baseOffset === plan.segmentBase) return
  run.report.belowDurableEnd = true
  let fromOffset = active?.baseOffset ?? plan.startOffset
  let position = 0
  if (active !== undefined) {
    await run.files.use(`${active.path}.log`, async file => {
      const range = { fromPosition: 0, toPosition: active.sizeBytes, offset: active.baseOffset }
      const result = await scanBatches(file, range, false, () => undefined)
      fromOffset = result.offset
      position = result.position
    })
  }
  if (fromOffset >= plan.endOffset) return
  addDamage(run, log, {
    fromOffset,
    toOffset: plan.endOffset,
    segment: `${segmentPath(log.folder, plan.segmentBase)}.log`,
    bytePosition: position,
    resumePosition: -1,
    reason: 'the segment is shorter than what was durable in it',
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
        const toOffset = good?.offset ?? segment.endOffset
        addDamage(run, log, {
          fromOffset: result.offset,
          toOffset,
          segment: `${segment.path}.log`,
          bytePosition: result.position,
          resumePosition: good?.position ?? -1,
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

/**
 * Without a checkpoint: the logs are what folders and journal name, their ends what their batches say. Where the journal
 * holds a log's oldest bytes it also holds what moved its start since.
 */
async function planFromFolders(run: Run, records: readonly JournalRecord[]): Promise<RecoveryPlan> {
  const ids = new Map<string, number>()
  const firstBases = new Map<string, number>()
  let nextLogId = 1
  for (const { entries } of records) {
    for (const { name, logId, kind, segmentBase } of entries) {
      ids.set(name, logId)
      if (kind === 'data' && !firstBases.has(name)) firstBases.set(name, segmentBase)
      nextLogId = Math.max(nextLogId, logId + 1)
    }
  }
  const plan = planOf({ logs: [], removing: [], nextLogId })
  for (const name of await logFolders(run.disk, `${run.directory}/logs`, '')) {
    const folder = logFolder(run.directory, name)
    const bases = segmentBases(await run.disk.list(folder))
    const first = Math.min(
      bases[0] ?? Number.POSITIVE_INFINITY,
      firstBases.get(name) ?? Number.POSITIVE_INFINITY,
    )
    if (first === Number.POSITIVE_INFINITY) continue
    const id = ids.get(name) ?? plan.nextLogId++
    const log = newLogPlan({
      id,
      name,
      startOffset: first,
      endOffset: first,
      segmentBase: first,
      position: 0,
    })
    // Nothing is known yet of where it ends.
    log.ends.clear()
    plan.logs.set(id, log)
    await adoptBeyond(run, log, folder, bases)
  }
  return plan
}

async function logFolders(disk: Disk, path: string, prefix: string): Promise<string[]> {
  const found: string[] = []
  const names = await disk.list(path)
  if (prefix !== '' && names.some(isSegmentFile)) found.push(prefix)
  for (const name of names) {
    if (isSegmentFile(name)) continue
    found.push(...(await logFolders(disk, `${path}/${name}`, prefix === '' ? name : `${prefix}/${name}`)))
  }
  return found
}

async function removeDeleted(run: Run, plan: RecoveryPlan): Promise<void> {
  const live = new Set([...plan.logs.values()].map(log => log.name))
  for (const name of plan.removing) {
    if (!live.has(name)) await removeLogFiles(run.disk, logFolder(run.directory, name))
  }
}

/** Removes a log's own files, and its folder where no other log lies below it. */
export async function removeLogFiles(disk: Disk, folder: string): Promise<void> {
  const names = await disk.list(folder)
  for (const name of names) if (isSegmentFile(name)) await disk.remove(`${folder}/${name}`)
  if (names.every(isSegmentFile)) await disk.remove(folder)
  else await disk.syncDir(folder)
}
