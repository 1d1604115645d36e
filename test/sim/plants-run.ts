import { cp, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import type { Plant } from './plants.ts'
import { PLANTS } from './plants.ts'
import { runJobs } from './pool.ts'
import type { SeedResult } from './run.ts'

/** Plants one bug after another in a copy of the tree, and runs seeds there until one fails. */

const ROOT = new URL('../../', import.meta.url).pathname
/** What the simulator needs. */
const FOLDERS = ['common', 'edge', 'hub', 'test/sim', 'test/spine']
const FILES = ['package.json', 'test/fake-disk.ts', 'test/rng.ts', 'test/links.ts', 'test/fake-clock.ts']

export interface PlantResult {
  name: string
  caught: boolean
  /** Seeds it took. */
  seeds: number
  within: number
  failure: string
}

/** Tells of each as it is done; `names`: only those that hold one of them. */
export async function runPlants(
  first: number,
  workers: number,
  names: string,
  onResult: (result: PlantResult) => void,
): Promise<void> {
  for (const plant of PLANTS.filter(({ name }) => name.includes(names))) {
    const folder = await mkdtemp(join(tmpdir(), 'sim-plant-'))
    try {
      await copyTree(folder)
      await patch(folder, plant)
      onResult(await runPlant(folder, plant, first, workers))
    } finally {
      await rm(folder, { recursive: true, force: true })
    }
  }
}

async function copyTree(folder: string): Promise<void> {
  for (const path of [...FOLDERS, ...FILES]) {
    await cp(join(ROOT, path), join(folder, path), { recursive: true })
  }
  await symlink(join(ROOT, 'node_modules'), join(folder, 'node_modules'))
}

async function patch(folder: string, { name, file, find, replace }: Plant): Promise<void> {
  const path = join(folder, file)
  const text = await readFile(path, 'utf8')
  const parts = text.split(find)
  if (parts.length !== 2) {
    throw new Error(
      `"${name}" is not to be planted: its text is ${parts.length - 1} times in ${file}: ${find}`,
    )
  }
  await writeFile(path, parts.join(replace))
}

async function runPlant(folder: string, plant: Plant, first: number, workers: number): Promise<PlantResult> {
  const { name, seeds: within } = plant
  let seeds = 0
  let caught: SeedResult | null = null
  const jobs = Array.from({ length: within }, (_, index) => ({ seed: first + index, wanted: {} }))
  await runJobs(jobs.values(), {
    workers,
    folder: pathToFileURL(join(folder, 'test/sim/')),
    onResult: result => {
      seeds++
      if (result.failure !== null) caught ??= result
      return result.failure !== null
    },
  })
  return { name, caught: caught !== null, seeds, within, failure: firstLine(caught) }
}

function firstLine(result: SeedResult | null): string {
  return result?.failure?.split('\n')[0]?.slice(0, 300) ?? ''
}
