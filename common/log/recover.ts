import type { Disk } from '../env.ts'
import { systemErrorCode } from '../errors.ts'
import type { AsideRange } from './aside.ts'
import { keepRangesAside } from './aside.ts'
import type { Checkpoint } from './checkpoint.ts'
import { decodeCheckpoint } from './checkpoint.ts'
import { isSegmentFile, logFolder, segmentBases, segmentPath } from './paths.ts'
import type { JournalContent, JournalRecord } from './recover-journal.ts'
import { journalPath, rangeCrc, readJournal } from './recover-journal.ts'
import type { RecoverInput, Run } from './recover-log.ts'
import { adoptBeyond, recoverLog } from './recover-log.ts'
import type { RecoveryPlan } from './recover-plan.ts'
import { newLogPlan, planOf, replayRecord } from './recover-plan.ts'
import type { SegmentedLog } from './segmented-log.ts'
import type { RecoveryReport } from './types.ts'
import { eachAtMost } from './work.ts'

/**
 * Bringing a directory back after whatever happened to it. The checkpoint says what the segments hold durably, the
 * journal what was committed since; whatever the segments lack of that is written again, what lies beyond it was
 * never acked and is cut. Nothing found here keeps the directory from opening.
 */

/** Logs recovered at once; each keeps a file open and a buffer. */
const LOGS_AT_ONCE = 16
/** Nobody else needs the thread pool yet, and the filesystem syncs many files as fast as one. */
const MAX_SYNCS_AT_ONCE = 16

export interface Recovered {
  logs: SegmentedLog[]
  removing: string[]
  nextLogId: number
  session: number
  nextCommit: number
  report: RecoveryReport
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
    belowDurableEnd: checkpoint?.belowDurableEnd === true,
    uncleanAsync: checkpoint?.uncleanAsync === true,
    tornTails: [],
    damage: [],
    durationMs: 0,
  }
  const journal =
    checkpoint?.cleanShutdown === true
      ? { records: [], firstUnsynced: 0, missing: 0, dropped: [] }
      : await readJournal(disk, directory, journalId, checkpoint?.session, checkpoint?.firstCommit ?? 0)
  const wasAsync =
    checkpoint === undefined ? journal.records.some(record => record.isAsync) : checkpoint.flush === 'async'
  if (wasAsync && !report.cleanShutdown) report.uncleanAsync = true
  const adopt = checkpoint === undefined || journal.missing > 0
  const run: Run = { ...input, report, halves: [], dirty: new Set(), folders: new Set(), adopt }
  const plan = checkpoint === undefined ? await planFromFolders(run, journal.records) : planOf(checkpoint)
  try {
    await openHalves(run)
    await dropTorn(run, journal)
    for (const record of journal.records) replayRecord(plan, record)
    if (adopt) noteJournalDamage(run, checkpoint === undefined, journal.missing)
    const logs: SegmentedLog[] = []
    await eachAtMost(LOGS_AT_ONCE, [...plan.logs.values()], async log => {
      logs.push(await recoverLog(run, log))
    })
    await eachAtMost(MAX_SYNCS_AT_ONCE, [...run.dirty], path => input.files.sync(`${path}.log`))
    await eachAtMost(MAX_SYNCS_AT_ONCE, [...run.folders], folder => disk.syncDir(folder))
    await removeDeleted(run, plan)
    const lastNumber = (journal.dropped.at(-1) ?? journal.records.at(-1))?.number ?? 0
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
  // What a lost commit held of logs that no later one names is not known.
  run.report.belowDurableEnd = true
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

/**
 * Cuts the journal's tail at the first commit whose bytes are whole neither there nor in the segments. It was never acked or,
 * under `flush: async`, not synced; so were those behind it.
 */
async function dropTorn(run: Run, journal: JournalContent): Promise<void> {
  const { records, dropped, firstUnsynced } = journal
  for (const [at, record] of records.entries()) {
    if (record.number < firstUnsynced || (await isWhole(run, record))) continue
    dropped.unshift(...records.splice(at))
    break
  }
  await tellDropped(run, dropped)
}

async function isWhole(run: Run, record: JournalRecord): Promise<boolean> {
  for (let at = 0; at < record.entries.length; at++) {
    const entry = record.entries[at]
    if (entry === undefined || entry.kind !== 'data') continue
    const journaled = await replayCrc(run, record.half, record.payloadAt[at] ?? -1, entry.length)
    if (journaled === entry.crc) continue
    const path = `${segmentPath(logFolder(run.directory, entry.name), entry.segmentBase)}.log`
    if ((await segmentCrc(run, path, entry.position, entry.length)) !== entry.crc) return false
  }
  return true
}

/** Keeps what the journal has of each log's part in commits that are dropped, and tells of it. */
async function tellDropped(run: Run, dropped: readonly JournalRecord[]): Promise<void> {
  const parts = new Map<string, { fromOffset: number; cutBytes: number; ranges: AsideRange[] }>()
  for (const { half, entries, payloadAt } of dropped) {
    const file = run.halves[half]
    for (const [at, { kind, name, firstOffset, length }] of entries.entries()) {
      if (kind !== 'data' || file === undefined) continue
      const part = parts.get(name) ?? { fromOffset: firstOffset, cutBytes: 0, ranges: [] }
      part.cutBytes += length
      part.ranges.push({ file, from: payloadAt[at] ?? -1, length })
      parts.set(name, part)
    }
  }
  for (const [log, { fromOffset, cutBytes, ranges }] of parts) {
    const keptAs = await keepRangesAside(run.disk, run.directory, { name: log, from: fromOffset }, ranges)
    run.report.tornTails.push({ log, fromOffset, cutBytes, keptAs })
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
