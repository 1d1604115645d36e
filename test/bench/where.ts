/** Where the CPU time of processes went, by the profiles that V8 writes when they end in order. */

import { mkdir, readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'

const frame = z.object({ functionName: z.string(), url: z.string() })
const profile = z.object({
  nodes: z.array(z.object({ id: z.number(), callFrame: frame })),
  /** Microseconds of the monotonic clock. */
  startTime: z.number(),
  samples: z.array(z.number()),
  timeDeltas: z.array(z.number()),
})

type Frame = z.infer<typeof frame>

const MAIN_THREAD_IDLE = '(idle)'

/** The first that fits. */
const PARTS: readonly (readonly [string, (at: Frame) => boolean])[] = [
  ['garbage collection', ({ functionName }) => functionName === '(garbage collector)'],
  ['sockets', ({ functionName, url }) => /^(writev|writeBuffer|shutdown)$/.test(functionName) && url === ''],
  [
    'files',
    ({ functionName, url }) => /^(writeBuffers|fdatasync|fsync|read|open)$/.test(functionName) && url === '',
  ],
  ['CRC-32C', ({ functionName }) => /crc32c/i.test(functionName)],
  ['ws', ({ url }) => url.includes('/node_modules/ws/')],
  ['frames (CBOR)', ({ url }) => /common\/(cbor|wire|channel)/.test(url)],
  ['log', ({ url }) => url.includes('/common/')],
  ['replication, routing, quorum', ({ url }) => url.includes('/hub/')],
  ['Node', ({ url, functionName }) => url.startsWith('node:') || functionName.startsWith('(')],
  ['rest', () => true],
]

/** Runs `start` so that processes started by it write profiles into `directory` when they end in order. */
export async function profiled<T>(directory: string, start: () => Promise<T>): Promise<T> {
  await mkdir(directory, { recursive: true })
  const before = process.env.NODE_OPTIONS
  process.env.NODE_OPTIONS = `${before ?? ''} --cpu-prof --cpu-prof-dir=${directory}`.trim()
  try {
    return await start()
  } finally {
    if (before === undefined) delete process.env.NODE_OPTIONS
    else process.env.NODE_OPTIONS = before
  }
}

/** Now, as profiles tell time. */
export function profileUs(): number {
  return Number(process.hrtime.bigint() / 1_000n)
}

/** Share of each part in the main threads' time between two moments of the monotonic clock, largest first, in percent. */
export async function whereTimeWent(
  directory: string,
  fromUs: number,
  toUs: number,
): Promise<[string, number][]> {
  const sums = new Map<string, number>()
  for (const name of await readdir(directory)) {
    const { nodes, startTime, samples, timeDeltas } = profile.parse(
      JSON.parse(await readFile(join(directory, name), 'utf8')),
    )
    const frames = new Map(nodes.map(({ id, callFrame }) => [id, callFrame]))
    let atUs = startTime
    for (const [at, id] of samples.entries()) {
      const tookUs = timeDeltas[at] ?? 0
      atUs += tookUs
      const where = frames.get(id)
      if (where === undefined || where.functionName === MAIN_THREAD_IDLE || atUs < fromUs || atUs > toUs)
        continue
      const part = PARTS.find(([, fits]) => fits(where))?.[0] ?? ''
      sums.set(part, (sums.get(part) ?? 0) + tookUs)
    }
  }
  const total = [...sums.values()].reduce((sum, one) => sum + one, 0)
  return [...sums]
    .sort(([, one], [, other]) => other - one)
    .map(([part, sum]): [string, number] => [part, (sum / total) * 100])
}
