/** What hub and edge cost while nothing happens. */

import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { BenchContext } from './measure.ts'
import { cpuMs, markdownTable, median, round, rssMb } from './measure.ts'
import { buildPackage, createBenchStage } from './stage.ts'

const SETTLE_MS = 3_000
const IDLE_MS = 5_000

/** RSS and CPU of connected hub and edge with default settings, idle: as installed, and from source, where Node's type stripping counts too. */
export async function benchIdle(context: BenchContext): Promise<void> {
  const rows = [
    ...(await measure(context, 'installed', await buildPackage(context.directory))),
    ...(await measure(context, 'from source', undefined)),
  ]
  context.write(`${markdownTable([`idle, median of ${context.runs}`, 'RSS', 'CPU of a core'], rows)}\n`)
}

async function measure(context: BenchContext, how: string, script: string | undefined): Promise<string[][]> {
  const figures: Record<string, { rss: number[]; cpu: number[] }> = {
    hub: { rss: [], cpu: [] },
    edge: { rss: [], cpu: [] },
  }
  for (let run = 0; run < context.runs; run++) {
    const stage = await createBenchStage(join(context.directory, `idle-${how}-${run}`), {}, script)
    await stage.hub.start()
    await stage.edge.start()
    await sleep(SETTLE_MS)
    const children = [stage.hub, stage.edge]
    const before = await Promise.all(children.map(child => cpuMs(child.pid() ?? 0)))
    await sleep(IDLE_MS)
    for (const [index, child] of children.entries()) {
      const pid = child.pid() ?? 0
      figures[child.name]?.rss.push(await rssMb(pid))
      figures[child.name]?.cpu.push((((await cpuMs(pid)) - (before[index] ?? 0)) * 100) / IDLE_MS)
    }
    await stage.stop()
  }
  return Object.entries(figures).map(([name, { rss, cpu }]) => [
    `${name}, ${how}`,
    `${round(median(rss))} MB`,
    `${round(median(cpu), 1)} %`,
  ])
}
