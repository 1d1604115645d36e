/** The design's import table and bans, as functions from sources to what is wrong with them. */

import { builtinModules } from 'node:module'
import type { Source } from './source.ts'
import { targetOf } from './source.ts'

/** Where a file is and what it may import of ours; the first that matches counts, and every file must match one. */
interface Zone {
  name: string
  files: RegExp
  mayImport: RegExp
  /** Only types may come from here. */
  mayImportTypes?: RegExp
}

/** Nothing but mains, the demo (which is one) and tests reaches the real clock, disk and network. */
const OURS_IN_COMMON = /^common\/(?!\w+-node\.ts$)/

const ZONES: readonly Zone[] = [
  { name: 'main, test', files: /^(main\.ts|vitest\.config\.ts|test\/)/, mayImport: /./ },
  { name: 'common', files: /^common\//, mayImport: /^common\// },
  { name: 'demo', files: /^demo\//, mayImport: /^(demo|common)\// },
  { name: 'edge', files: /^edge\//, mayImport: or(/^edge\//, OURS_IN_COMMON) },
  { name: 'hub/raft', files: /^hub\/raft\//, mayImport: /^(hub\/raft\/|common\/(assert|types)\.ts$)/ },
  {
    name: 'hub/controller',
    files: /^hub\/controller\//,
    mayImport: or(/^hub\/controller\//, OURS_IN_COMMON),
    mayImportTypes: /^hub\/ports\.ts$/,
  },
  {
    name: 'hub/groups',
    files: /^hub\/groups\//,
    mayImport: or(/^hub\/groups\//, OURS_IN_COMMON),
    mayImportTypes: /^hub\/ports\.ts$/,
  },
  { name: 'hub/replica', files: /^hub\/replica\//, mayImport: or(/^hub\/replica\//, OURS_IN_COMMON) },
  ...endpoints(['uplink', 'subscribe', 'kafka', 'mqtt', 'http']),
  {
    name: 'hub/engines',
    files: /^hub\/engines\//,
    mayImport: or(/^hub\/(engines\/|ports\.ts$|raft\/|controller\/|replica\/|groups\/)/, OURS_IN_COMMON),
  },
  { name: 'hub/ports.ts', files: /^hub\/ports\.ts$/, mayImport: OURS_IN_COMMON },
  { name: 'hub/node.ts', files: /^hub\/node\.ts$/, mayImport: /^(hub|common)\// },
  {
    name: 'hub/commands',
    files: /^hub\/commands(-\w+)?\.ts$/,
    mayImport: or(/^hub\/(commands(-\w+)?|node)\.ts$/, OURS_IN_COMMON),
  },
]

function endpoints(names: readonly string[]): Zone[] {
  return names.map(name => ({
    name: `hub/endpoints/${name}`,
    files: new RegExp(`^hub/endpoints/${name}/`),
    mayImport: or(new RegExp(`^hub/(ports\\.ts$|endpoints/${name}/)`), OURS_IN_COMMON),
  }))
}

function or(left: RegExp, right: RegExp): RegExp {
  return new RegExp(`${left.source}|${right.source}`)
}

/** Files whose imports the table does not allow. */
export function importViolations(sources: readonly Source[]): string[] {
  return sources.flatMap(source => {
    const zone = ZONES.find(candidate => candidate.files.test(source.path))
    if (zone === undefined) return [`${source.path}: the import table has no row for it`]
    return source.imports.flatMap(({ specifier, typeOnly, line }) => {
      const target = targetOf(source.path, specifier)
      if (target === null || zone.mayImport.test(target)) return []
      if (typeOnly && zone.mayImportTypes?.test(target)) return []
      return [`${source.path}:${line}: ${zone.name} may not import ${target}`]
    })
  })
}

/** Relative imports without their extension, built-ins without `node:`. */
export function specifierViolations(sources: readonly Source[]): string[] {
  return sources.flatMap(source =>
    source.imports.flatMap(({ specifier, line }) => {
      const bare = builtinModules.includes(specifier) && !specifier.startsWith('node:')
      const wrong = bare || (specifier.startsWith('.') && !/\.(ts|json)$/.test(specifier))
      return wrong ? [`${source.path}:${line}: import '${specifier}'`] : []
    }),
  )
}

/** Decisions without I/O: time and randomness are their arguments. */
const PURE =
  /^(hub\/(raft|controller)\/|hub\/groups\/.*state|hub\/replica\/producers|edge\/(forward(er|-[\w-]+)|gaps|runs|ledger|router(-[\w-]+)?)\.ts$)/
const ASYNC_SYNTAX = new Set(['async', 'AwaitExpression'])
const WORLD = new Set([
  'Date.now',
  'Math.random',
  'performance.now',
  'setTimeout',
  'setInterval',
  'setImmediate',
])
/** What only code that waits needs. */
const WAITING = new Set(['Promise', 'process', 'queueMicrotask'])

export function purityViolations(sources: readonly Source[]): string[] {
  return sources
    .filter(source => PURE.test(source.path))
    .flatMap(source => [
      ...source.syntax
        .filter(({ type }) => ASYNC_SYNTAX.has(type) || type === 'new Date()')
        .map(({ type, line }) => `${source.path}:${line}: ${type}`),
      ...source.names
        .filter(({ name }) => WORLD.has(name) || WAITING.has(name))
        .map(({ name, line }) => `${source.path}:${line}: ${name}`),
      ...source.imports
        .filter(({ specifier }) => specifier.startsWith('node:'))
        .map(({ specifier, line }) => `${source.path}:${line}: ${specifier}`),
    ])
}

/** Shells get clock, randomness and disk by `Env`; only these files may reach for the real ones. */
const MAINS = /^(main\.ts|common\/\w+-node\.ts|demo\/|test\/|vitest\.config\.ts)/

export function worldViolations(sources: readonly Source[]): string[] {
  return sources
    .filter(source => !MAINS.test(source.path))
    .flatMap(source => [
      ...source.names
        .filter(({ name }) => WORLD.has(name))
        .map(({ name, line }) => `${source.path}:${line}: ${name}`),
      ...source.syntax
        .filter(({ type }) => type === 'new Date()')
        .map(({ type, line }) => `${source.path}:${line}: ${type}`),
      ...source.imports
        .filter(({ specifier }) => /^node:(fs|timers)/.test(specifier))
        .map(({ specifier, line }) => `${source.path}:${line}: ${specifier}`),
    ])
}

const CASTS = new Set(['TSAsExpression', 'TSTypeAssertion', 'TSNonNullExpression', 'TSAnyKeyword'])

/** Casts, non-null assertions, `any`, and comments that silence the compiler. */
export function castViolations(sources: readonly Source[]): string[] {
  const silenced = new RegExp(`@ts-(${'ignore'}|${'expect-error'}|${'nocheck'})`)
  return sources.flatMap(source => [
    ...source.syntax
      .filter(({ type }) => CASTS.has(type))
      .map(({ type, line }) => `${source.path}:${line}: ${type}`),
    ...source.text
      .split('\n')
      .flatMap((text, index) => (silenced.test(text) ? [`${source.path}:${index + 1}: ${text.trim()}`] : [])),
  ])
}

const SKIPS = /^(it|test|describe|suite|fuzz)\.(skip|only|todo|fails)$|^x(it|test|describe)$/

export function skippedTests(sources: readonly Source[]): string[] {
  return sources
    .filter(source => source.path.startsWith('test/'))
    .flatMap(source =>
      source.names
        .filter(({ name }) => SKIPS.test(name))
        .map(({ name, line }) => `${source.path}:${line}: ${name}`),
    )
}

/** Source files that no root leads to by imports or by naming them in a string. */
export function deadFiles(sources: readonly Source[], roots: RegExp, candidates: RegExp): string[] {
  const byPath = new Map(sources.map(source => [source.path, source]))
  const alive = new Set<string>()
  const queue = sources.filter(source => roots.test(source.path)).map(source => source.path)
  for (let path = queue.pop(); path !== undefined; path = queue.pop()) {
    const source = byPath.get(path)
    if (source === undefined || alive.has(path)) continue
    alive.add(path)
    for (const { specifier } of source.imports) queue.push(targetOf(path, specifier) ?? '')
    queue.push(...source.references)
  }
  return sources.map(source => source.path).filter(path => candidates.test(path) && !alive.has(path))
}

/** Chains of imports that come back to where they began, types aside; each is named once. */
export function importCircles(sources: readonly Source[]): string[] {
  const edges = new Map(
    sources.map(source => [
      source.path,
      source.imports.flatMap(({ specifier, typeOnly }) =>
        typeOnly ? [] : [targetOf(source.path, specifier) ?? ''],
      ),
    ]),
  )
  const state = new Map<string, 'open' | 'done'>()
  const circles: string[] = []
  const walk = (path: string, trail: readonly string[]): void => {
    if (state.get(path) === 'done') return
    if (state.get(path) === 'open') {
      circles.push([...trail.slice(trail.indexOf(path)), path].join(' -> '))
      return
    }
    state.set(path, 'open')
    for (const next of edges.get(path) ?? []) walk(next, [...trail, path])
    state.set(path, 'done')
  }
  for (const path of edges.keys()) walk(path, [])
  return circles
}
