import type { BatchHeader } from '../batch.ts'
import type { Disk, DiskFile } from '../env.ts'
import type { VerifyReport } from './inspect.ts'
import { findLogs, locked, verifyLogs } from './inspect.ts'
import { logFolder, segmentBases, segmentPath } from './paths.ts'
import type { LogPlan } from './recover-plan.ts'
import { resync, scanBatches } from './scan.ts'

/** `tributary log verify DIR DIR2 ...`: whether the replicas of partitions in several directories are the same. */

/** Logs of partitions; the others in a directory are the node's own. */
const PARTITION_LOGS = /^t\//
/** Batches read ahead of one replica. */
const READ_BYTES = 1024 * 1024

/** What a replica has where replicas differ; null where it has no batch there. */
export interface SeenBatch {
  baseOffset: number
  lastOffset: number
  leaderEpoch: number
  crc: number
  sizeBytes: number
}

/** The first place where the replicas of a partition differ. */
export interface Difference {
  offset: number
  /** In the order of `replicas`. */
  batches: (SeenBatch | null)[]
}

export interface ComparedLog {
  name: string
  replicas: { directory: string; startOffset: number; endOffset: number }[]
  /** What all of them have: from the largest start on, below the least durable end. */
  fromOffset: number
  toOffset: number
  batches: number
  /** Offsets not compared: damaged in a replica, or after a kill not in its segments yet. */
  skipped: number
  difference: Difference | null
}

export interface ComparisonReport {
  directories: (VerifyReport & { directory: string })[]
  comparisons: ComparedLog[]
}

/**
 * Verifies each directory, then compares batch by batch, leader epochs and all, what the replicas of each partition have in
 * common. Changes nothing. Rejects with `directory_in_use` while a process holds one of them.
 */
export async function compareDirectories(
  disk: Disk,
  directories: readonly string[],
): Promise<ComparisonReport> {
  const report: ComparisonReport = { directories: [], comparisons: [] }
  const replicas = new Map<string, { directory: string; plan: LogPlan }[]>()
  const visit = async (at: number): Promise<void> => {
    const directory = directories[at]
    if (directory === undefined) {
      for (const [name, found] of [...replicas].sort(([left], [right]) => (left < right ? -1 : 1)))
        if (found.length > 1) report.comparisons.push(await compareLog(disk, name, found))
      return
    }
    await locked(disk, directory, async () => {
      const found = await findLogs(disk, directory)
      report.directories.push({ directory, ...(await verifyLogs(disk, directory, found)) })
      for (const plan of found.logs) {
        if (!PARTITION_LOGS.test(plan.name)) continue
        const same = replicas.get(plan.name) ?? []
        same.push({ directory, plan })
        replicas.set(plan.name, same)
      }
      await visit(at + 1)
    })
  }
  await visit(0)
  return report
}

async function compareLog(
  disk: Disk,
  name: string,
  found: readonly { directory: string; plan: LogPlan }[],
): Promise<ComparedLog> {
  const fromOffset = Math.max(...found.map(({ plan }) => plan.startOffset))
  const toOffset = Math.min(...found.map(({ plan }) => plan.endOffset))
  const compared: ComparedLog = {
    name,
    replicas: found.map(({ directory, plan: { startOffset, endOffset } }) => ({
      directory,
      startOffset,
      endOffset,
    })),
    fromOffset,
    toOffset,
    batches: 0,
    skipped: 0,
    difference: null,
  }
  const readers = found.map(({ directory, plan }) => batchesOf(disk, directory, plan, fromOffset, toOffset))
  try {
    await compareReaders(readers, compared)
  } finally {
    for (const reader of readers) await reader.return(undefined)
  }
  return compared
}

/** A batch, or a stretch that is no good. */
type Piece = { kind: 'batch'; header: BatchHeader; bytes: Uint8Array } | { kind: 'damage'; toOffset: number }

async function compareReaders(
  readers: readonly AsyncGenerator<Piece>[],
  compared: ComparedLog,
): Promise<void> {
  const next = async (reader: AsyncGenerator<Piece>): Promise<Piece | undefined> => {
    const { value, done } = await reader.next()
    return done === true ? undefined : value
  }
  let comparedTo = compared.fromOffset
  let pieces = await Promise.all(readers.map(next))
  while (pieces.some(piece => piece !== undefined)) {
    const damagedTo = Math.max(-1, ...pieces.map(piece => (piece?.kind === 'damage' ? piece.toOffset : -1)))
    if (damagedTo >= 0) {
      compared.skipped += damagedTo - comparedTo
      comparedTo = damagedTo
      pieces = await Promise.all(
        pieces.map(async (piece, at) => {
          const reader = readers[at]
          let held = piece
          while (held !== undefined && reader !== undefined && lastOf(held) < damagedTo)
            held = await next(reader)
          return held
        }),
      )
      continue
    }
    const batches = pieces.map(piece => (piece?.kind === 'batch' ? piece : undefined))
    const [first] = batches
    const same = batches.every(
      batch => batch !== undefined && first !== undefined && Buffer.compare(batch.bytes, first.bytes) === 0,
    )
    if (!same) {
      const offset = Math.min(...batches.map(batch => batch?.header.baseOffset ?? compared.toOffset))
      compared.difference = { offset, batches: batches.map(batch => seen(batch?.header)) }
      return
    }
    compared.batches++
    comparedTo = (first?.header.lastOffset ?? comparedTo) + 1
    pieces = await Promise.all(readers.map(next))
  }
}

/** The last offset that a piece tells of. */
function lastOf(piece: Piece): number {
  return piece.kind === 'batch' ? piece.header.baseOffset : piece.toOffset - 1
}

function seen(header: BatchHeader | undefined): SeenBatch | null {
  if (header === undefined) return null
  const { baseOffset, lastOffset, leaderEpoch, crc, sizeBytes } = header
  return { baseOffset, lastOffset, leaderEpoch, crc, sizeBytes }
}

/** The batches of a log that reach into [fromOffset, toOffset), from its segments; what is bad is passed over and told. */
async function* batchesOf(
  disk: Disk,
  directory: string,
  plan: LogPlan,
  fromOffset: number,
  toOffset: number,
): AsyncGenerator<Piece> {
  const folder = logFolder(directory, plan.name)
  const bases = segmentBases(await disk.list(folder)).filter(base => base <= plan.segmentBase)
  let expected = bases[0] ?? fromOffset
  if (expected > fromOffset) yield { kind: 'damage', toOffset: expected }
  for (const [at, base] of bases.entries()) {
    const endOffset = bases[at + 1] ?? plan.endOffset
    if (endOffset <= fromOffset) continue
    if (base >= toOffset) break
    const file = await disk.open(`${segmentPath(folder, base)}.log`, 'read')
    try {
      const size = await file.sizeBytes()
      const end = base === plan.segmentBase ? Math.min(size, plan.position) : size
      for await (const piece of segmentPieces(file, { base, end, endOffset })) {
        expected = piece.kind === 'batch' ? piece.header.lastOffset + 1 : piece.toOffset
        if (expected <= fromOffset) continue
        if (piece.kind === 'batch' && piece.header.baseOffset >= toOffset) return
        yield piece
      }
    } finally {
      await file.close()
    }
  }
  if (expected < toOffset) yield { kind: 'damage', toOffset }
}

async function* segmentPieces(
  file: DiskFile,
  segment: { base: number; end: number; endOffset: number },
): AsyncGenerator<Piece> {
  const { end, endOffset } = segment
  let position = 0
  let offset = segment.base
  while (position < end) {
    const gathered: Piece[] = []
    const from = position
    const range = { fromPosition: position, toPosition: end, offset }
    const result = await scanBatches(file, range, true, (header, at, bytes, within) => {
      // At least one: a batch may be larger.
      if (at > from && at + header.sizeBytes - from > READ_BYTES) return false
      const copy = Uint8Array.from(bytes.subarray(within, within + header.sizeBytes))
      gathered.push({ kind: 'batch', header, bytes: copy })
      return undefined
    })
    yield* gathered
    position = result.position
    offset = result.offset
    if (result.bad === undefined) continue
    const good = await resync(file, position + 1, end, offset, endOffset)
    yield { kind: 'damage', toOffset: good?.offset ?? endOffset }
    if (good === undefined) return
    position = good.position
    offset = good.offset
  }
  if (offset < endOffset) yield { kind: 'damage', toOffset: endOffset }
}
