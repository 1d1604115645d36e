/** `npm run fuzz -- [--iterations N] [--seed S] [TARGET...]`: garbage and near misses into everything that parses. */

import { parseArgs } from 'node:util'

/** One target: throws where the code under test does what it never may. */
type Fuzz = (iterations: number, seed: number) => void | Promise<void>

const TARGETS: Record<string, () => Promise<{ fuzz: Fuzz }>> = {
  batch: () => import('./batch.ts'),
  wire: () => import('./wire.ts'),
  mqtt: () => import('./mqtt.ts'),
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { iterations: { type: 'string', default: '20000' }, seed: { type: 'string' } },
})
const iterations = Number(values.iterations)
const seed = values.seed === undefined ? Math.floor(Math.random() * 2 ** 32) : Number(values.seed)
const names = positionals.length > 0 ? positionals : Object.keys(TARGETS)
const unknown = names.filter(name => !Object.hasOwn(TARGETS, name))
if (!(iterations > 0) || !Number.isSafeInteger(seed) || unknown.length > 0) {
  const usage = `npm run fuzz -- [--iterations N] [--seed S] [${Object.keys(TARGETS).join(' | ')}]`
  console.error(
    `error: ${unknown.length > 0 ? `no target ${unknown.join(', ')}` : 'not a number'}; usage: ${usage}`,
  )
  process.exit(2)
}

for (const name of names) {
  const target = TARGETS[name]
  if (target === undefined) continue
  const again = `npm run fuzz -- --iterations ${iterations} --seed ${seed} ${name}`
  console.log(`fuzz ${name}: ${iterations} iterations, seed ${seed}`)
  const startMs = performance.now()
  try {
    const { fuzz } = await target()
    await fuzz(iterations, seed)
    console.log(`fuzz ${name}: passed in ${((performance.now() - startMs) / 1_000).toFixed(1)} s`)
  } catch (error) {
    console.error(`fuzz ${name}: FAILED; again: ${again}`)
    console.error(error)
    process.exitCode = 1
  }
}
