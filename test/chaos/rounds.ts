/** Chaos rounds in a row, and what is checked when they are over. */

import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import type { Child } from '../../demo/child.ts'
import { seededRng } from '../rng.ts'
import type { Stage } from './round.ts'
import { runRound } from './round.ts'

/** `tributary log verify` of each directory, and of the replicas against each other. */
export function verifyLogs(script: string, directory: string, names: readonly string[]): string[] {
  const checks = names.map(name => [join(directory, name)])
  const replicas = names.filter(name => name.startsWith('hub-')).map(name => join(directory, name))
  if (replicas.length > 1) checks.push(replicas)
  return checks.flatMap(paths => {
    const run = spawnSync(process.execPath, [script, 'log', 'verify', ...paths], { encoding: 'utf8' })
    return run.status === 0 ? [] : [`log verify ${paths.join(' ')} failed: ${run.stdout}${run.stderr}`]
  })
}

/** Runs rounds one after another and prints a line for each; what went wrong. */
export async function runRounds(stage: Stage, rounds: number, seed: number): Promise<string[]> {
  const problems: string[] = []
  const rng = seededRng(seed + 1)
  for (let round = 1; round <= rounds; round++) {
    const result = await runRound(round, stage, rng)
    const { problems: found, harm, ...figures } = result
    console.log(JSON.stringify({ ...figures, harm: harm.join(', '), problems: found.length }))
    problems.push(...found.map(problem => `round ${round}: ${problem}`))
  }
  console.log(`cuts on MQTT: ${JSON.stringify(stage.mqttProxy.cuts())}`)
  return problems
}

/** SIGTERM to each in turn; what did not end in order. */
export async function stopAll(children: readonly Child[]): Promise<string[]> {
  const problems: string[] = []
  for (const child of children) {
    const code = await child.stop(20_000)
    if (code !== 0) problems.push(`${child.name} ended with ${code} on SIGTERM:\n${child.stderr()}`)
  }
  return problems
}
