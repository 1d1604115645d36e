import type { Clock, Disk, Rng } from '../env.ts'
import { isTributaryError, TributaryError } from '../errors.ts'
import { MIB } from '../limits.ts'
import { keepAside } from './aside.ts'
import { openDataDir } from './data-dir.ts'
import { FilePool } from './files.ts'
import { SegmentIndex } from './indexes.ts'
import { findLogs, locked, withFile } from './inspect.ts'
import { logFolder, segmentBases, segmentPath } from './paths.ts'
import { resync, scanBatches } from './scan.ts'
import type { Damage, DataDir, DataDirOptions, LogOptions, RecoveryReport } from './types.ts'

/** What `tributary log repair DIR` does, on a directory that no process holds. */

/** Repair needs no room for more than it finds. */
const REPAIR_OPTIONS: DataDirOptions = {
  commitMs: 0,
  journalBytes: 1024 * 1024,
  reserveBytes: 0,
  tailCacheBytes: 0,
}

const REPAIR_LOG_OPTIONS: LogOptions = {
  segmentBytes: 16 * MIB,
  segmentMs: Number.POSITIVE_INFINITY,
  retentionBytes: Number.POSITIVE_INFINITY,
  retentionMs: Number.POSITIVE_INFINITY,
  maxBatchBytes: MIB,
}

/**
 * Recovers the directory as a start would (torn tails cut and kept aside, commits replayed), reads all of it, sets damage
 * aside and isolates it, then rebuilds every segment's indexes. Returns what recovery found and all damage there is, also
 * what was known.
 */
export async function repairDirectory(
  env: { disk: Disk; clock: Clock; rng: Rng },
  directory: string,
): Promise<RecoveryReport> {
  const { disk } = env
  if (!(await disk.exists(`${directory}/meta.json`))) {
    throw new TributaryError('not_found', `${directory} is no data directory: it has no meta.json`)
  }
  const dir = await openDataDir(directory, REPAIR_OPTIONS, env)
  const damage = dir.recovery.damage.filter(({ log }) => log === '')
  try {
    for (const name of dir.logNames()) damage.push(...(await isolateDamage(dir, name, disk)))
  } finally {
    await dir.close()
  }
  await locked(disk, directory, async () => {
    for (const plan of (await findLogs(disk, directory)).logs) {
      const folder = logFolder(directory, plan.name)
      for (const base of segmentBases(await disk.list(folder)))
        await rebuildIndex(disk, segmentPath(folder, base), base, plan.endOffset)
    }
  })
  return { ...dir.recovery, damage }
}

/** Reads a whole log; from then on reads pass over what is damaged. All that is. */
async function isolateDamage(dir: DataDir, name: string, disk: Disk): Promise<readonly Damage[]> {
  const log = await dir.openLog(name, REPAIR_LOG_OPTIONS)
  const files = new FilePool(disk)
  try {
    for (let offset = log.startOffset(); offset < log.durableEndOffset(); ) {
      try {
        const { nextOffset, release } = await log.read(offset, MIB)
        release?.()
        offset = nextOffset
      } catch (error) {
        const found = log
          .damage()
          .find(({ fromOffset, toOffset }) => offset >= fromOffset && offset < toOffset)
        if (!isTributaryError(error, 'corrupt_log') || found === undefined) throw error
        log.isolate(found)
        await setAside(dir.path, found, disk, files)
        offset = found.toOffset
      }
    }
  } finally {
    await files.closeAll()
  }
  return log.damage()
}

async function setAside(directory: string, damage: Damage, disk: Disk, files: FilePool): Promise<void> {
  const { log: name, segment: path, bytePosition: from, resumePosition } = damage
  if (!(await disk.exists(path))) return
  const to = resumePosition < 0 ? await files.use(path, file => file.sizeBytes()) : resumePosition
  await keepAside(disk, files, directory, { name, path, from, to })
}

async function rebuildIndex(disk: Disk, path: string, base: number, endOffset: number): Promise<void> {
  const index = new SegmentIndex()
  await withFile(disk, `${path}.log`, async file => {
    const size = await file.sizeBytes()
    let position = 0
    let offset = base
    while (position < size) {
      const result = await scanBatches(
        file,
        { fromPosition: position, toPosition: size, offset },
        true,
        (header, at) => {
          index.add(header.baseOffset - base, at, header.sizeBytes, header.maxTimestampMs)
          return undefined
        },
      )
      if (result.bad === undefined) break
      const good = await resync(file, result.position + 1, size, result.offset, endOffset)
      if (good === undefined) break
      position = good.position
      offset = good.offset
    }
  })
  await disk.remove(`${path}.index`)
  await disk.remove(`${path}.timeindex`)
  await index.save(disk, path)
}
