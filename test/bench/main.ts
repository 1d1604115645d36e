/** `npm run bench -- [SECTION...] [--runs N]`: writes tables of medians, with peers in the same run where installed. */

import { rm, writeFile } from 'node:fs/promises'
import { cpus } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { benchBatch } from './batch.ts'
import { benchClusterAtRest, benchReplication } from './cluster.ts'
import { benchController } from './controller.ts'
import { benchFailover } from './failover.ts'
import { benchFanOut, benchLatency } from './flow.ts'
import { benchHeavyDisk } from './heavy-disk.ts'
import { benchIdle } from './idle.ts'
import { benchLog } from './log.ts'
import type { BenchContext } from './measure.ts'
import { benchDirectory, fdatasyncP50Ms, round } from './measure.ts'
import { benchMqttIngest } from './mqtt-ingest.ts'
import { benchOffline } from './offline.ts'
import { benchPartition } from './partition.ts'

const SECTIONS: Record<string, (context: BenchContext) => Promise<void>> = {
  mqtt: benchMqttIngest,
  offline: benchOffline,
  'fan-out': benchFanOut,
  latency: benchLatency,
  idle: benchIdle,
  log: benchLog,
  partition: benchPartition,
  batch: benchBatch,
  controller: benchController,
  cluster: benchClusterAtRest,
  replication: benchReplication,
  failover: benchFailover,
  'heavy-disk': benchHeavyDisk,
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    runs: { type: 'string', default: '5' },
    out: { type: 'string', default: join(import.meta.dirname, 'results.md') },
  },
})

async function main(): Promise<void> {
  const unknown = positionals.filter(name => !Object.hasOwn(SECTIONS, name))
  if (unknown.length > 0)
    throw new Error(`no section ${unknown.join(', ')}; there are: ${Object.keys(SECTIONS).join(', ')}`)
  const { directory, filesystem } = await benchDirectory()
  const parts: string[] = []
  const write = (text: string): void => {
    parts.push(text)
    console.log(text)
  }
  write(
    `# Benchmarks\n\n${cpus().length} cores (${cpus()[0]?.model.trim() ?? 'unknown'}), Node ${process.versions.node}, ${filesystem}, ` +
      `fdatasync p50 ${round(await fdatasyncP50Ms(directory), 3)} ms; load and servers share the machine, on loopback. ` +
      `Command: \`npm run bench -- ${process.argv.slice(2).join(' ')}\`.\n`,
  )
  try {
    for (const [name, section] of Object.entries(SECTIONS)) {
      if (positionals.length > 0 && !positionals.includes(name)) continue
      write(`## ${name}\n`)
      await section({ directory, runs: Number(values.runs), write })
    }
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
  await writeFile(values.out, parts.join('\n'))
}

await main()
