/** Keeps the house: who imports whom, what pure files may do, how long files get, and that none is dead. */

import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { VERSION } from '../common/version.ts'
import * as rules from './tidy/rules.ts'
import type { Source } from './tidy/source.ts'
import { parseSource, readSource } from './tidy/source.ts'

const MAX_LINES = 500

const tracked = execFileSync('git', ['ls-files', '-z'], { encoding: 'utf8' })
  .split('\0')
  .filter(path => path !== '' && existsSync(path))
const sources = tracked.filter(path => path.endsWith('.ts')).map(readSource)
const texts = tracked
  .filter(path => path !== 'package-lock.json' && !path.startsWith('test/fixtures/'))
  .map(path => ({ path, text: readFileSync(path, 'utf8') }))

function linesWith(pattern: RegExp): string[] {
  return texts.flatMap(({ path, text }) =>
    text
      .split('\n')
      .flatMap((line, index) => (pattern.test(line) ? [`${path}:${index + 1}: ${line.trim()}`] : [])),
  )
}

describe('the repository', () => {
  test('imports only what the import table allows', () => {
    expect(rules.importViolations(sources)).toEqual([])
  })

  test('names relative imports with .ts and built-ins with node:', () => {
    expect(rules.specifierViolations(sources)).toEqual([])
  })

  test('has no circles of imports', () => {
    expect(rules.importCircles(sources)).toEqual([])
  })

  test('has no time, chance, timers, promises or built-ins in pure files', () => {
    expect(rules.purityViolations(sources)).toEqual([])
  })

  test('takes clock, randomness and files by Env everywhere but in mains', () => {
    expect(rules.worldViolations(sources)).toEqual([])
  })

  test('has no casts, no any, no non-null assertions, and silences no compiler error', () => {
    expect(rules.castViolations(sources)).toEqual([])
  })

  test('has no file so long that it should be split', () => {
    const long = sources.filter(source => source.lines > MAX_LINES)
    expect(long.map(source => `${source.path}: ${source.lines} lines`)).toEqual([])
  })

  test('has no dead file: products are reached from main.ts, test helpers from tests', () => {
    const mains = /^main\.ts$/
    const products = /^(common|edge|hub|demo)\//
    const all = /^(main\.ts|vitest\.config\.ts|test\/(.*\.test\.ts|[^/]+\/main\.ts))$/
    expect(rules.deadFiles(sources, mains, products)).toEqual([])
    expect(rules.deadFiles(sources, all, /./)).toEqual([])
  })

  test('skips no test and focuses on none', () => {
    expect(rules.skippedTests(sources)).toEqual([])
  })

  test('has no markers of unfinished work', () => {
    expect(linesWith(new RegExp(`\\b(${['TO', 'DO'].join('')}|FIX${'ME'}|XX${'X'}|HA${'CK'})\\b`))).toEqual(
      [],
    )
  })

  test('names no path of one machine and no package registry', () => {
    const folders = ['work', 'home', 'root', 'Users', 'tmp'].join('|')
    const paths = new RegExp(`(^|[\\s'"\`(=:])/(${folders})/`)
    const hosts = ['registry.npm' + 'js', 'npm.pkg' + '.', '/artifact' + 'ory/', 'verdac' + 'cio']
    const registries = new RegExp(hosts.map(host => host.replaceAll('.', '\\.')).join('|'))
    expect(linesWith(paths)).toEqual([])
    expect(linesWith(registries)).toEqual([])
    expect(readFileSync('package-lock.json', 'utf8')).not.toMatch(/"resolved":/)
  })

  test('has one version', () => {
    expect(JSON.parse(readFileSync('package.json', 'utf8'))).toMatchObject({ version: VERSION })
  })
})

describe('the rules themselves', () => {
  const file = (path: string, imports: string[], more: Partial<Source> = {}): Source => ({
    path,
    text: '',
    lines: 1,
    imports: imports.map(specifier => ({ specifier, typeOnly: false, line: 1 })),
    syntax: [],
    names: [],
    references: [],
    ...more,
  })

  test('refuse imports against the table', () => {
    const wrong = [
      file('common/a.ts', ['../edge/b.ts']),
      file('edge/a.ts', ['../hub/ports.ts']),
      file('edge/b.ts', ['../common/env-node.ts']),
      file('hub/endpoints/http/a.ts', ['../uplink/b.ts']),
      file('hub/controller/a.ts', ['../ports.ts']),
      file('hub/replica/a.ts', ['../raft/b.ts']),
      file('hub/raft/a.ts', ['../../common/bytes.ts']),
      file('hub/commands.ts', ['./engines/cluster/b.ts']),
      file('demo/a.ts', ['../hub/node.ts']),
      file('elsewhere/a.ts', []),
    ]
    expect(rules.importViolations(wrong)).toHaveLength(wrong.length)
    const right = [
      file('hub/controller/a.ts', [], { imports: [{ specifier: '../ports.ts', typeOnly: true, line: 1 }] }),
      file('hub/endpoints/http/a.ts', ['../../ports.ts', './b.ts', '../../../common/c.ts', 'fastify']),
      file('hub/node.ts', ['./engines/cluster/b.ts', './endpoints/http/a.ts']),
      file('main.ts', ['./hub/commands.ts', './common/env-node.ts']),
    ]
    expect(rules.importViolations(right)).toEqual([])
  })

  test('see through syntax', () => {
    const bad = `
      import fs from 'node:fs'
      // @ts-${'ignore'}
      export async function f(x: any): Promise<Date> {
        await (x as string).length
        const kind = 'a' as const
        setTimeout(() => x!.y, Math.random() + Date.now())
        return new Date()
      }`
    const pure = parseSource('edge/forwarder.ts', bad)
    const shell = parseSource('hub/node.ts', bad)
    expect(rules.castViolations([shell])).toHaveLength(4)
    expect(rules.purityViolations([pure])).toHaveLength(8)
    expect(rules.worldViolations([shell])).toHaveLength(5)
    expect(parseSource('a/b.ts', "type A = import('./c.ts').D").imports).toEqual([
      { specifier: './c.ts', typeOnly: true, line: 1 },
    ])
    expect(parseSource('a/b.ts', "new URL('../w.ts', import.meta.url)").references).toEqual(['w.ts'])
  })

  test('find dead files and circles', () => {
    const sources = [
      file('main.ts', ['./common/a.ts']),
      file('common/a.ts', ['./b.ts']),
      file('common/b.ts', ['./a.ts'], { references: ['common/worker.ts'] }),
      file('common/worker.ts', []),
      file('common/dead.ts', ['./a.ts']),
    ]
    expect(rules.deadFiles(sources, /^main\.ts$/, /^common/)).toEqual(['common/dead.ts'])
    expect(rules.importCircles(sources)).toEqual(['common/a.ts -> common/b.ts -> common/a.ts'])
  })
})
