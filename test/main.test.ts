/** The command as a process: help, suggestions, exit codes, streams. What needs a hub is in main-hub.test.ts. */

import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { VERSION } from '../common/version.ts'
import { parseUsers } from '../edge/mqtt/users.ts'
import { runCli } from './run-cli.ts'

const directory = mkdtempSync(join(tmpdir(), 'tributary-main-'))

function file(name: string, text: string): string {
  const path = join(directory, name)
  writeFileSync(path, text)
  return path
}

describe('help', () => {
  test('lists every command and says where to go on', async () => {
    const { code, stdout, stderr } = await runCli(['--help'])
    expect(code).toBe(0)
    expect(stderr).toBe('')
    for (const name of ['hub', 'edge', 'demo', 'topics', 'produce', 'consume', 'edges', 'log', 'config']) {
      expect(stdout).toMatch(new RegExp(`^  ${name}\\b`, 'm'))
    }
  })

  test('of every command has examples', async () => {
    const commands = await listCommands([])
    expect(commands.length).toBeGreaterThan(18)
    for (const { path, help } of commands) expect(help, path.join(' ')).toContain(`$ tributary ${path[0]}`)
  }, 60_000)

  test('without a command is a mistake', async () => {
    const { code, stdout, stderr } = await runCli([])
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
    expect(stderr).toContain('Usage: tributary')
  })

  test('knows the version', async () => {
    expect(await runCli(['--version'])).toEqual({ code: 0, stdout: `${VERSION}\n`, stderr: '' })
  })
})

/** Every command below `path` with its help, as the help texts list them. */
async function listCommands(path: readonly string[]): Promise<{ path: readonly string[]; help: string }[]> {
  const { stdout: help } = await runCli([...path, '--help'])
  const listed = help.split('\nCommands:\n')[1]?.split('\n\n')[0] ?? ''
  const names = [...listed.matchAll(/^ {2}([\w-]+)/gm)]
    .map(match => match[1] ?? '')
    .filter(name => name !== 'help')
  const below = await Promise.all(names.map(name => listCommands([...path, name])))
  return [...(path.length === 0 ? [] : [{ path, help }]), ...below.flat()]
}

describe('mistakes on the command line exit with 2 and suggest what was meant', () => {
  test.each([
    ['topcs list', "error: unknown command 'topcs'\n(Did you mean topics?)"],
    ['topics lst', "error: unknown command 'lst'\n(Did you mean list?)"],
    ['edge sttus', "error: unknown command 'sttus'\n(Did you mean status?)"],
    ['log verfy x', "error: unknown command 'verfy'\n(Did you mean verify?)"],
    ['edge --mqt 1', "error: unknown option '--mqt'\n(Did you mean --mqtt?)"],
    ['hub extra', "error: too many arguments for 'hub'"],
    ['topics create', "error: missing required argument 'topic'"],
    ['hub --data', "error: option '--data <dir>' argument missing"],
    ['consume t --from yesterday', 'Expected earliest, latest, an offset such as 1200, or an ISO 8601 time'],
    ['consume t --format xml', 'Allowed choices are json, value, raw.'],
    ['consume t --count 0', 'Expected a whole number above 0.'],
    [
      'consume t --hub localhost',
      'Expected a URL such as ws://127.0.0.1:7600, or several separated by commas.',
    ],
    ['produce t --acks 2', 'Allowed choices are 0, 1, all.'],
    ['produce t --key a --key-separator b', 'cannot be used with option'],
    ['produce t --header x', 'Expected name=value.'],
    ['topics create t --retention-ms soon', 'Expected a duration such as 24h or 7d, or off.'],
  ])('%s', async (args, expected) => {
    const { code, stdout, stderr } = await runCli(args.split(' '))
    expect(stderr).toContain(expected)
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
  })
})

describe('expected failures exit with 1, one line each and no stack trace', () => {
  const nowhere = 'ws://127.0.0.1:9'
  test.each([
    [['hub', '--http', '0.0.0.0:0'], 'error: --http: http is "0.0.0.0:0"; expected a loopback address'],
    [['edge', '--hub', 'nowhere'], 'error: --hub: hub is "nowhere"; expected the URL of a hub'],
    [['hub', '--config', 'missing.yaml'], "error: missing.yaml can't be read (ENOENT)"],
    [['hub', '--log-level', 'loud'], 'error: --log-level: logLevel is "loud"; expected one of trace'],
    [['edge', 'status', '--http', '127.0.0.1:9'], 'error: no edge answers at 127.0.0.1:9'],
    [['topics', 'alter', 't'], 'error: nothing to change'],
    [['topics', 'list', '--hub', nowhere, '--token-file', 'missing'], 'missing'],
  ])('%j', async (args, expected) => {
    const { code, stdout, stderr } = await runCli(args)
    expect(stderr).toContain(expected)
    expect(stderr).toMatch(/^error: .*\n$/)
    expect(stderr).not.toMatch(/^ {4}at /m)
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
  })
})

describe('config check', () => {
  test('shows the settings in effect', async () => {
    const path = file('good.yaml', 'edge: { id: e1 }\nhub: { storage: { retentionMs: 24h } }')
    const env = { TRIBUTARY_NODE_ID: '3' }
    const text = await runCli(['config', 'check', path], { env })
    expect(text.code).toBe(0)
    expect(text.stdout).toContain('good.yaml: OK')
    expect(text.stdout).toContain('retentionMs: 86400000')
    const json: unknown = JSON.parse((await runCli(['config', 'check', path, '--json'], { env })).stdout)
    expect(json).toMatchObject({
      edge: { id: 'e1' },
      hub: { nodeId: 3, storage: { retentionMs: 86_400_000 } },
    })
  })

  test('prints every error', async () => {
    const path = file('bad.yaml', 'edge: { idd: e1 }\nhub: { nodeId: -1 }')
    const { code, stdout, stderr } = await runCli(['config', 'check', path])
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
    expect(stderr).toContain('idd is unknown; did you mean id?')
    expect(stderr).toContain('nodeId is -1; expected a whole number from 1')
  })
})

describe('mqtt-users add', () => {
  test('adds users and changes passwords', async () => {
    const path = join(directory, 'users')
    const add = (user: string, input: string) => runCli(['mqtt-users', 'add', path, user], { input })
    for (const [user, input] of [
      ['ann', 'one\n'],
      ['bob', 'two'],
      ['ann', 'three\nignored\n'],
    ] as const) {
      expect((await add(user, input)).code).toBe(0)
    }
    const users = parseUsers(path, readFileSync(path))
    const attempts = [
      ['ann', 'three'],
      ['ann', 'one'],
      ['bob', 'two'],
    ] as const
    const verdicts = await Promise.all(
      attempts.map(([user, password]) => users.verify(user, Buffer.from(password))),
    )
    expect(verdicts).toEqual([true, false, true])
  })

  test('refuses empty passwords and names that the file can not hold', async () => {
    const path = join(directory, 'none')
    expect(await runCli(['mqtt-users', 'add', path, 'ann'])).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('is empty'),
    })
    expect(await runCli(['mqtt-users', 'add', path, 'a:b'], { input: 'x\n' })).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('no colon'),
    })
    expect(existsSync(path)).toBe(false)
  })
})

test('edge status asks the address it is given, not the one of edge', async () => {
  const server = createServer((request, response) => {
    response.end(JSON.stringify({ url: request.url }))
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  const port = typeof address === 'object' ? address?.port : 0
  const { code, stdout } = await runCli(['edge', 'status', '--json', '--http', `127.0.0.1:${port}`])
  server.close()
  expect(code).toBe(0)
  expect(JSON.parse(stdout)).toEqual({ url: '/status' })
})

test('the installed command says which Node it needs on an older one', () => {
  const old = 'Object.defineProperty(process, "versions", { value: { ...process.versions, node: "20.1.0" } })'
  const bin = join(import.meta.dirname, '../bin/tributary.js')
  const { status, stderr } = spawnSync(process.execPath, ['--import', `data:text/javascript,${old}`, bin], {
    encoding: 'utf8',
  })
  expect(status).toBe(1)
  expect(stderr).toMatch(/^error: tributary needs Node 22\.18 or newer, this is 20\.1\.0: .*\n$/)
})
