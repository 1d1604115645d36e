/** The README's tables of settings name every key with its default. */

import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { EDGE_DEFAULTS, edgeSchema } from '../common/config-edge.ts'
import { HUB_DEFAULTS, hubSchema } from '../common/config-hub.ts'
import { knownPaths } from '../common/config-issues.ts'
import { formatDuration, formatSize } from '../common/units.ts'

const readme = readFileSync('README.md', 'utf8')

/** Default by key, as the table under `### role` has them. */
function documented(role: string): Map<string, string> {
  const section = readme.split(/^### /m).find(part => part.startsWith(`${role}\n`)) ?? ''
  const table = section.split(/^## /m)[0] ?? ''
  const defaults = new Map<string, string>()
  for (const row of table.matchAll(/^\| (`.*?) \| .*? ?\| (.*?) \|/gm)) {
    const keys = (row[1] ?? '').split(', ').map(key => key.replaceAll('`', ''))
    const values = (row[2] ?? '').replaceAll('`', '').split(', ')
    for (const [index, key] of keys.entries()) defaults.set(key, values[index] ?? values[0] ?? '')
  }
  return defaults
}

function shown(path: string, defaults: object): string {
  let value: unknown = defaults
  for (const key of path.split('.'))
    value = typeof value === 'object' && value !== null ? Reflect.get(value, key) : null
  if (value === null || value === undefined) return 'off'
  if (typeof value === 'number' && path.includes('Bytes')) return formatSize(value)
  if (typeof value === 'number' && path.endsWith('Ms')) return formatDuration(value)
  return String(value)
}

/** Explained in words instead. */
const IN_WORDS = ['id', 'rules', 'topics', 'cluster.peers']

describe('the README', () => {
  test.each([
    ['edge', edgeSchema, EDGE_DEFAULTS],
    ['hub', hubSchema, HUB_DEFAULTS],
  ] as const)('lists the settings of %s', (role, schema, defaults) => {
    const table = documented(role)
    const paths = [...knownPaths(schema)]
    const leaves = paths
      .filter(([path, kind]) => kind === 'leaf' && !path.includes('*'))
      .map(([path]) => path)
    for (const path of leaves) {
      expect(table.has(path), `${role}.${path} is not in the README`).toBe(true)
      if (!IN_WORDS.includes(path))
        expect(`${path} ${table.get(path)}`).toBe(`${path} ${shown(path, defaults)}`)
    }
    for (const key of table.keys())
      expect(knownPaths(schema).has(key), `${key} is no setting of ${role}`).toBe(true)
  })
})
