import type { BatchHeader } from '../batch.ts'
import { decodeRecords } from '../batch-records.ts'
import { utf8Text, utf8TextStrict } from '../bytes.ts'
import type { Codec, Disk, DiskFile } from '../env.ts'
import { TributaryError } from '../errors.ts'
import { SegmentIndex } from './indexes.ts'
import { logFolder, segmentBases, segmentPath } from './paths.ts'
import { readCheckpoint } from './recover.ts'
import { journalPath, readJournal } from './recover-journal.ts'
import type { LogPlan } from './recover-plan.ts'
import { planOf, replayRecord } from './recover-plan.ts'
import type { ScanRange } from './scan.ts'
import { MAX_SCANNED_BATCH_BYTES, resync, scanBatches } from './scan.ts'

/** What `tributary log verify|dump DIR` does, on a directory that no process holds. */

/** One thing found wrong, or worth telling. */
export interface Finding {
  /** `damage`: acked bytes are bad. `pending`: the next start puts it right by itself. `index`: rebuilt when needed. */
  kind: 'damage' | 'pending' | 'index'
  log: string
  file: string
  bytePosition: number
  text: string
}

export interface VerifiedLog {
  name: string
  startOffset: number
  endOffset: number
  segments: number
  batches: number
  records: number
  sizeBytes: number
}

export interface VerifyReport {
  cleanShutdown: boolean
  logs: VerifiedLog[]
  findings: Finding[]
}

/** The logs of a directory as the next start will bring them back. */
export interface Found {
  clean: boolean
  logs: LogPlan[]
  /** The journal holds commits that the segments may lack. */
  journaled: boolean
}

/** Runs `work` while holding the directory's lock; rejects with `not_found` where `directory` is no data directory. */
export async function locked<T>(disk: Disk, directory: string, work: () => Promise<T>): Promise<T> {
  if (!(await disk.exists(`${directory}/meta.json`))) {
    throw new TributaryError('not_found', `${directory} is no data directory: it has no meta.json`)
  }
  const unlock = await disk.lock(directory)
  try {
    return await work()
  } finally {
    await unlock()
  }
}

/** Reads checkpoint and journal; the caller holds the lock. */
export async function findLogs(disk: Disk, directory: string): Promise<Found> {
  const checkpoint = await readCheckpoint(disk, directory)
  if (checkpoint === undefined) {
    throw new TributaryError(
      'corrupt_log',
      `${directory}/checkpoint is missing or damaged: run tributary log repair`,
    )
  }
  const plan = planOf(checkpoint)
  if (!checkpoint.cleanShutdown) {
    const meta = utf8Text(await disk.readFile(`${directory}/meta.json`))
    const journalId = Buffer.from(/"journalId":\s*"([0-9a-f]+)"/.exec(meta)?.[1] ?? '', 'hex')
    const { records } = await readJournal(
      disk,
      directory,
      journalId,
      checkpoint.session,
      checkpoint.firstCommit,
    )
    for (const record of records) replayRecord(plan, record)
  }
  const logs = [...plan.logs.values()].sort((left, right) => (left.name < right.name ? -1 : 1))
  return { clean: checkpoint.cleanShutdown, logs, journaled: !checkpoint.cleanShutdown }
}

/** Runs `work` with a file open to read. */
export async function withFile<T>(
  disk: Disk,
  path: string,
  work: (file: DiskFile) => Promise<T>,
): Promise<T> {
  const file = await disk.open(path, 'read')
  try {
    return await work(file)
  } finally {
    await file.close()
  }
}

/**
 * Checks every batch's CRC-32C, that offsets are contiguous within and across segments, that logs end where they were
 * durable, and that the indexes agree. Changes nothing.
 */
export function verifyDirectory(disk: Disk, directory: string): Promise<VerifyReport> {
  return locked(disk, directory, async () => verifyLogs(disk, directory, await findLogs(disk, directory)))
}

/** The same once the logs are found and the lock is held. */
export async function verifyLogs(disk: Disk, directory: string, found: Found): Promise<VerifyReport> {
  const report: VerifyReport = { cleanShutdown: found.clean, logs: [], findings: [] }
  for (const plan of found.logs) await verifyLog(disk, directory, plan, found.journaled, report)
  return report
}

async function verifyLog(
  disk: Disk,
  directory: string,
  plan: LogPlan,
  journaled: boolean,
  report: VerifyReport,
): Promise<void> {
  const folder = logFolder(directory, plan.name)
  const bases = segmentBases(await disk.list(folder))
  const log: VerifiedLog = {
    name: plan.name,
    startOffset: plan.startOffset,
    endOffset: plan.endOffset,
    segments: bases.length,
    batches: 0,
    records: 0,
    sizeBytes: 0,
  }
  report.logs.push(log)
  const tell = (kind: Finding['kind'], file: string, bytePosition: number, text: string): void => {
    report.findings.push({ kind, log: plan.name, file, bytePosition, text })
  }
  let ended = false
  for (const [at, base] of bases.entries()) {
    const path = segmentPath(folder, base)
    const next = bases[at + 1] ?? plan.endOffset
    const endPosition = base === plan.segmentBase ? plan.position : base > plan.segmentBase ? 0 : undefined
    await withFile(disk, `${path}.log`, async file => {
      const size = await file.sizeBytes()
      log.sizeBytes += size
      const end = Math.min(size, endPosition ?? size)
      if (size > end)
        tell(
          'pending',
          `${path}.log`,
          end,
          `${size - end} bytes past the durable end: a torn tail, cut at the next start`,
        )
      if (base === plan.segmentBase) ended = size >= plan.position
      if (end === 0) return
      // From here on the journal may hold what the segment lacks.
      const { verify } = plan
      const sure =
        verify === undefined || !journaled
          ? Number.POSITIVE_INFINITY
          : base > verify.segmentBase
            ? 0
            : base === verify.segmentBase
              ? verify.position
              : size
      const kindAt = (position: number): Finding['kind'] => (position >= sure ? 'pending' : 'damage')
      await verifySegment(file, base, end, next, log, (position, text) =>
        tell(kindAt(position), `${path}.log`, position, text),
      )
      await verifyIndex(disk, file, path, base, size, (position, text) =>
        tell('index', `${path}.index`, position, text),
      )
    })
  }
  if (!ended && plan.segmentBase >= 0 && plan.position > 0) {
    const text = `the log was durable to offset ${plan.endOffset}, its last segment is shorter`
    tell(
      journaled && plan.replays.length > 0 ? 'pending' : 'damage',
      `${segmentPath(folder, plan.segmentBase)}.log`,
      0,
      text,
    )
  }
}

async function verifySegment(
  file: DiskFile,
  base: number,
  end: number,
  endOffset: number,
  log: VerifiedLog,
  tell: (position: number, text: string) => void,
): Promise<void> {
  let position = 0
  let offset = base
  while (position < end) {
    const range = { fromPosition: position, toPosition: end, offset }
    const result = await scanBatches(file, range, true, header => {
      log.batches++
      log.records += header.recordCount
      return undefined
    })
    position = result.position
    offset = result.offset
    if (result.bad === undefined) break
    const good = await resync(file, position + 1, end, offset, endOffset)
    tell(position, `offsets ${offset} to ${good?.offset ?? endOffset} are damaged: ${result.bad}`)
    if (good === undefined) return
    position = good.position
    offset = good.offset
  }
  if (offset !== endOffset)
    tell(position, `the segment ends at offset ${offset}, the next thing starts at ${endOffset}`)
}

async function verifyIndex(
  disk: Disk,
  file: DiskFile,
  path: string,
  base: number,
  size: number,
  tell: (position: number, text: string) => void,
): Promise<void> {
  if (!(await disk.exists(`${path}.index`))) return
  const index = await SegmentIndex.load(disk, path, size)
  const wanted = Math.floor((await disk.readFile(`${path}.index`)).length / 8)
  if (index.entryCount() !== wanted)
    tell(index.entryCount() * 8, `only ${index.entryCount()} of ${wanted} entries make sense`)
  const indexed = new Map<number, number>()
  for (let at = 0; at < index.entryCount(); at++) {
    const entry = index.entryAt(at)
    indexed.set(entry.position, base + entry.relativeOffset)
  }
  await scanBatches(file, { fromPosition: 0, toPosition: size, offset: base }, false, (header, position) => {
    const said = indexed.get(position)
    indexed.delete(position)
    if (said !== undefined && said !== header.baseOffset)
      tell(position, `says offset ${said} at byte ${position}, it is ${header.baseOffset}`)
    return undefined
  })
  for (const position of indexed.keys()) tell(position, `names byte ${position}, where no batch begins`)
}

export interface DumpOptions {
  /** Only this log. */
  log?: string
  /** Also each record. */
  records: boolean
  codec: Codec
}

/** Writes a line per batch, and per record if asked, of every log; damage is a line of its own. */
export function dumpDirectory(
  disk: Disk,
  directory: string,
  options: DumpOptions,
  write: (line: string) => Promise<void> | undefined,
): Promise<void> {
  return locked(disk, directory, async () => {
    const { logs } = await findLogs(disk, directory)
    const chosen = logs.filter(plan => options.log === undefined || plan.name === options.log)
    if (options.log !== undefined && chosen.length === 0) {
      throw new TributaryError(
        'not_found',
        `there is no log ${options.log} in ${directory}: log verify lists them`,
      )
    }
    for (const plan of chosen) {
      await write(`log ${plan.name} start ${plan.startOffset} end ${plan.endOffset}`)
      const folder = logFolder(directory, plan.name)
      for (const base of segmentBases(await disk.list(folder))) {
        const path = `${segmentPath(folder, base)}.log`
        await write(`segment ${path}`)
        await withFile(disk, path, async file => {
          const range = { fromPosition: 0, toPosition: await file.sizeBytes(), offset: base }
          await dumpRange(file, range, plan.endOffset, options, write)
        })
      }
      await dumpJournaled(disk, directory, plan, options, write)
    }
  })
}

/** What commits brought that the segments do not have yet: the next start writes it to them. */
async function dumpJournaled(
  disk: Disk,
  directory: string,
  plan: LogPlan,
  options: DumpOptions,
  write: (line: string) => Promise<void> | undefined,
): Promise<void> {
  for (const { segmentBase, position, length, half, payloadAt, firstOffset } of plan.replays) {
    const segment = `${segmentPath(logFolder(directory, plan.name), segmentBase)}.log`
    const held = (await disk.exists(segment)) ? await withFile(disk, segment, file => file.sizeBytes()) : 0
    if (held >= position + length) continue
    await write(`journal ${journalPath(directory, half)}, for ${segment} from byte ${position}`)
    await withFile(disk, journalPath(directory, half), async file => {
      const range = { fromPosition: payloadAt, toPosition: payloadAt + length, offset: firstOffset }
      await dumpRange(file, range, plan.endOffset, options, write)
    })
  }
}

async function dumpRange(
  file: DiskFile,
  range: ScanRange,
  endOffset: number,
  options: DumpOptions,
  write: (line: string) => Promise<void> | undefined,
): Promise<void> {
  const { toPosition } = range
  let { fromPosition: position, offset } = range
  while (position < toPosition) {
    let one: { header: BatchHeader; at: number; bytes: Uint8Array } | undefined
    const result = await scanBatches(
      file,
      { fromPosition: position, toPosition, offset },
      true,
      (header, at, bytes, from) => {
        if (one !== undefined) return false
        // One at a time: the scan's buffer is only good for the call, and lines are awaited.
        one = {
          header,
          at,
          bytes: options.records
            ? Uint8Array.from(bytes.subarray(from, from + header.sizeBytes))
            : new Uint8Array(0),
        }
        return undefined
      },
    )
    if (one !== undefined) {
      await dumpBatch(one.header, one.at, one.bytes, options, write)
      position = one.at + one.header.sizeBytes
      offset = one.header.lastOffset + 1
      continue
    }
    const good = await resync(file, result.position + 1, toPosition, offset, endOffset)
    await write(`  damaged at byte ${result.position}, offset ${offset}: ${result.bad ?? 'no batch'}`)
    if (good === undefined) return
    position = good.position
    offset = good.offset
  }
}

async function dumpBatch(
  header: BatchHeader,
  position: number,
  bytes: Uint8Array,
  options: DumpOptions,
  write: (line: string) => Promise<void> | undefined,
): Promise<void> {
  const producer =
    header.producerId < 0
      ? ''
      : ` producer ${header.producerId}/${header.producerEpoch} sequence ${header.baseSequence}`
  const kind = header.isControl ? ' control' : ''
  await write(
    `  ${header.baseOffset}..${header.lastOffset} at ${position} bytes ${header.sizeBytes} records ${header.recordCount} ${header.compression}${kind}${producer} epoch ${header.leaderEpoch} time ${header.baseTimestampMs}..${header.maxTimestampMs}`,
  )
  if (!options.records) return
  for (const record of await decodeRecords(bytes, 0, options.codec, MAX_SCANNED_BATCH_BYTES)) {
    const headers = record.headers.map(({ key, value }) => `${key}=${shown(value)}`).join(' ')
    await write(
      `    ${record.offset} time ${record.timestampMs} key ${shown(record.key)} value ${shown(record.value)} ${headers}`.trimEnd(),
    )
  }
}

function shown(bytes: Uint8Array | null): string {
  if (bytes === null) return 'null'
  const text = utf8TextStrict(bytes)
  return text === undefined ? `base64:${Buffer.from(bytes).toString('base64')}` : JSON.stringify(text)
}
