import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'

/** Of a lock file's packages, what is looked at. */
interface Locked {
  optionalDependencies?: Record<string, string>
}

/** npm leaves out what its registry did not offer when the file was made; `npm ci` then refuses the file everywhere. */
test('the lock file has an entry for every optional dependency, also those of other platforms', () => {
  const text = readFileSync(join(import.meta.dirname, '../package-lock.json'), 'utf8')
  const { packages }: { packages: Record<string, Locked> } = JSON.parse(text)
  const missing = Object.entries(packages).flatMap(([path, { optionalDependencies }]) =>
    Object.keys(optionalDependencies ?? {}).filter(
      name => !(`node_modules/${name}` in packages || `${path}/node_modules/${name}` in packages),
    ),
  )
  expect(missing).toEqual([])
})
