/** The chaos runs with several nodes: what operators do under load, then rounds of harm. */

import { join } from 'node:path'
import { allInSync } from '../hub-nodes.ts'
import { seededRng } from '../rng.ts'
import type { ClusterStage } from './cluster-stage.ts'
import { createClusterStage, unmountSmallDisk } from './cluster-stage.ts'
import { harmCluster } from './harm.ts'
import { errorsOf, growAndDrain, restartAll, watchTopic } from './moves.ts'
import { runRounds, stopAll, verifyLogs } from './rounds.ts'

/** `rolling`: all nodes restarted in order; `grow`: one node, three, the first drained; `rounds`: harm. */
export const PARTS = ['rolling', 'grow', 'rounds'] as const

export interface ClusterRun {
  script: string
  directory: string
  rounds: number
  seed: number
}

/** What went wrong in the parts asked for. */
export async function runCluster(
  run: ClusterRun,
  nodes: number,
  parts: readonly string[],
): Promise<string[]> {
  const problems: string[] = []
  if (parts.includes('rolling')) problems.push(...(await runMove(run, nodes, false)))
  if (parts.includes('grow')) problems.push(...(await runMove(run, nodes, true)))
  if (parts.includes('rounds')) problems.push(...(await runHarm(run, nodes)))
  return problems
}

/** One round under load while nodes are restarted, or come and go: neither edge nor subscriber may notice. */
async function runMove(run: ClusterRun, nodes: number, isGrown: boolean): Promise<string[]> {
  const { script, seed } = run
  const directory = join(run.directory, isGrown ? 'grow' : 'rolling')
  const stage = await createClusterStage(directory, script, nodes, seededRng(seed), isGrown)
  stage.harm = () => (isGrown ? growAndDrain(stage) : restartAll(stage))
  if (!isGrown) await allInSync(stage.client, nodes)
  const watcher = await watchTopic(stage.client, 'chaos-r1')
  const problems = await runRounds(stage, 1, seed)
  problems.push(...(await watcher.stop()), ...errorsOf(stage.edge))
  console.log(`a subscriber got ${watcher.count()} records meanwhile`)
  const left = stage.hubs.filter(hub => hub.pid() !== undefined)
  problems.push(...(await stopAndVerify(stage, directory, left.length)))
  if (problems.length === 0) unmountSmallDisk(stage)
  return problems.map(problem => `${isGrown ? 'grow' : 'rolling'}: ${problem}`)
}

async function runHarm({ script, directory, rounds, seed }: ClusterRun, nodes: number): Promise<string[]> {
  const stage = await createClusterStage(directory, script, nodes, seededRng(seed), false)
  stage.harm = rng => harmCluster(stage, rng)
  if (stage.smallDisk === null) console.log('full disks: SKIPPED, mounting a tmpfs needs root')
  const problems = await runRounds(stage, rounds, seed)
  problems.push(...(await stopAndVerify(stage, directory, nodes)))
  if (problems.length === 0) unmountSmallDisk(stage)
  return problems
}

/** Waits until every replica is in sync, so that they can be compared to their ends, batch for batch. */
async function stopAndVerify(stage: ClusterStage, directory: string, nodes: number): Promise<string[]> {
  const problems: string[] = []
  await allInSync(stage.client, nodes).catch(error => problems.push(String(error)))
  const running = stage.hubs.flatMap((hub, at) => (hub.pid() === undefined ? [] : [{ hub, at }]))
  problems.push(...(await stopAll([stage.edge, ...running.map(({ hub }) => hub)])))
  await stage.close()
  return problems.concat(
    verifyLogs(stage.script, directory, ['edge', ...running.map(({ at }) => `hub-${at + 1}/data`)]),
  )
}
