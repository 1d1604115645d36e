/** What is done to the nodes of a cluster in a chaos round. */

import { rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Rng } from '../../common/env.ts'
import type { Child } from '../../demo/child.ts'
import type { ClusterStage } from './cluster-stage.ts'
import { SMALL_DISK_BYTES } from './cluster-stage.ts'

/** SIGSTOP lasts from a second up to so long. */
const MAX_STOP_MS = 20_000
const MAX_DOWN_MS = 3_000
const START_LIMIT_MS = 60_000
const MAX_CUT_MS = 8_000
const MAX_FULL_MS = 5_000

/** One or two things at a time, undone before it returns; the cluster heals by itself from then on. */
export async function harmCluster(stage: ClusterStage, rng: Rng): Promise<string[]> {
  const first = rng.below(stage.hubs.length)
  const second = (first + 1 + rng.below(stage.hubs.length - 1)) % stage.hubs.length
  const done = [harmOne(stage, first, rng)]
  // Now and then two at once: nothing may be lost even where no majority is left for a while.
  if (rng.below(3) === 0) done.push(harmOne(stage, second, rng))
  if (rng.below(4) === 0) done.push(killAndStart(stage.edge, rng))
  return Promise.all(done)
}

async function harmOne(stage: ClusterStage, at: number, rng: Rng): Promise<string> {
  const child = stage.hubs[at]
  const nodeId = at + 1
  if (child === undefined) return ''
  switch (rng.below(6)) {
    case 0:
    case 1:
      return killAndStart(child, rng)
    case 2:
      return pause(child, rng)
    case 3:
      return cut(stage, nodeId, 'both', rng)
    case 4:
      return cut(stage, nodeId, rng.below(2) === 0 ? 'in' : 'out', rng)
    default:
      return fill(stage, rng)
  }
}

async function killAndStart(child: Child, rng: Rng): Promise<string> {
  await sleep(rng.below(1_500))
  await child.kill()
  await sleep(rng.below(MAX_DOWN_MS))
  await startUntilUp(child)
  return `kill ${child.name}`
}

/** As a supervisor does: with a full disk a node may not come up before there is room. */
async function startUntilUp(child: Child): Promise<void> {
  const limitMs = performance.now() + START_LIMIT_MS
  for (;;) {
    try {
      return await child.start()
    } catch (error) {
      if (performance.now() > limitMs) throw error
      await sleep(500)
    }
  }
}

async function pause(child: Child, rng: Rng): Promise<string> {
  const ms = 1_000 + rng.below(MAX_STOP_MS - 1_000)
  child.signal('SIGSTOP')
  await sleep(ms)
  child.signal('SIGCONT')
  return `stop ${child.name} ${ms} ms`
}

/** The node's links: to everyone and back, or one way alone. */
async function cut(
  stage: ClusterStage,
  nodeId: number,
  way: 'both' | 'in' | 'out',
  rng: Rng,
): Promise<string> {
  for (let other = 1; other <= stage.hubs.length; other++) {
    if (other === nodeId) continue
    if (way !== 'in') stage.gates.hold(nodeId, other)
    if (way !== 'out') stage.gates.hold(other, nodeId)
  }
  const ms = 1_000 + rng.below(MAX_CUT_MS)
  await sleep(ms)
  stage.gates.heal()
  return `cut ${nodeId} ${way} ${ms} ms`
}

async function fill({ folders, smallDisk }: ClusterStage, rng: Rng): Promise<string> {
  if (smallDisk === null) return 'fill SKIPPED, mounting a tmpfs needs root'
  const filler = join(folders[smallDisk] ?? '', 'filler')
  await writeFile(filler, Buffer.alloc(SMALL_DISK_BYTES)).catch(() => {})
  await sleep(rng.below(MAX_FULL_MS))
  await rm(filler, { force: true })
  return `fill the disk of hub ${smallDisk + 1}`
}
