/** Real processes with tokens, users and certificates: who has them gets through, who has not is told what is missing. */

import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import type { AddressInfo, Socket } from 'node:net'
import { connect as connectTcp } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createServer } from 'node:tls'
import { connectAsync } from 'mqtt'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { hashPassword } from '../../edge/mqtt/users.ts'
import { runCli, startCli, waitForLine } from '../run-cli.ts'
import { selfSigned } from '../self-signed.ts'
import { eventually } from './stage.ts'

const directory = mkdtempSync(join(tmpdir(), 'tributary-access-'))
const file = (name: string, text: string): string => {
  const path = join(directory, name)
  writeFileSync(path, text)
  return path
}
const { cert, key } = selfSigned()
const ca = file('ca.pem', cert)
const keyFile = file('key.pem', key)
const token = file('token', 's3cret\n')
const wrong = file('wrong', 'guess\n')
const children: ChildProcess[] = []
const sockets = new Set<Socket>()

async function start(args: string[], ready: RegExp): Promise<RegExpExecArray> {
  const child = startCli(args)
  children.push(child)
  return waitForLine(child, ready)
}

/** Ends TLS in front of the hub, as a proxy of an operator's would. */
const proxy = createServer({ cert, key }, outside => {
  const [host = '', port] = hub.split(':')
  const inside = connectTcp(Number(port), host)
  for (const [one, other] of [
    [outside, inside],
    [inside, outside],
  ] as const) {
    sockets.add(one)
    one.pipe(other)
    one.on('error', () => other.destroy())
    one.on('close', () => other.destroy())
  }
})
let hub = ''
let secure = ''
let edge: { mqtt: string; tls: string; http: string }

async function startEdge(name: string, tokenFile: string) {
  const free = ['--mqtt', '127.0.0.1:0', '--mqtt-tls', '127.0.0.1:0', '--http', '127.0.0.1:0']
  const tls = ['--mqtt-tls-cert', ca, '--mqtt-tls-key', keyFile, '--mqtt-users', users]
  const uplink = ['--hub', `wss://${secure}`, '--ca', ca, '--token-file', tokenFile]
  const [, mqtt = '', mqttTls = '', http = ''] = await start(
    ['edge', '--id', name, '--data', join(directory, name), ...free, ...tls, ...uplink],
    /"mqtt":"([\d.:]+)","mqttTls":"([\d.:]+)","http":"([\d.:]+)".*the edge is ready/,
  )
  return { mqtt, tls: mqttTls, http }
}
let users: string

beforeAll(async () => {
  users = file('users', `ann:${await hashPassword('open')}\n`)
  const args = ['hub', '--data', join(directory, 'hub'), '--http', '127.0.0.1:0', '--token-file', token]
  hub = (await start(args, /"http":"([\d.:]+)".*the hub is ready/))[1] ?? ''
  proxy.listen(0, '127.0.0.1')
  await once(proxy, 'listening')
  const bound: AddressInfo | string | null = proxy.address()
  secure = `127.0.0.1:${typeof bound === 'object' ? bound?.port : 0}`
  edge = await startEdge('e1', token)
})

afterAll(() => {
  for (const child of children) child.kill('SIGKILL')
  for (const socket of sockets) socket.destroy()
  proxy.close()
  rmSync(directory, { recursive: true, force: true })
})

const login = { username: 'ann', password: 'open', reconnectPeriod: 0 }
const publishTo = async (url: string, value: string, options = {}) => {
  const client = await connectAsync(url, { ...login, ...options })
  await client.publishAsync('n/1', value, { qos: 2 })
  await client.endAsync()
}
const statusOf = async ({ http }: { http: string }) =>
  JSON.parse(await (await fetch(`http://${http}/status`)).text())
const https = (...more: string[]) => ['--hub', `https://${secure}`, ...more]

test('MQTT over TLS with a user, wss: with a token, and clients over https: all the way', async () => {
  await publishTo(`mqtts://${edge.tls}`, 'over TLS', { ca: cert })
  await publishTo(`mqtt://${edge.mqtt}`, 'in the clear')
  await eventually('the drain', async () => (await statusOf(edge)).lagRecords === 0)
  const consumed = await runCli([
    'consume',
    'telemetry',
    '--format',
    'value',
    ...https('--ca', ca, '--token-file', token),
  ])
  expect(consumed).toEqual({ code: 0, stdout: 'over TLS\nin the clear\n', stderr: '' })
  const listed = await runCli(['edges', 'list', ...https('--ca', ca, '--token-file', token)])
  expect(listed.stdout).toMatch(/^e1 +connected/m)
})

test('clients without the authority, the token or TLS are told which', async () => {
  const list = async (...args: string[]) => {
    const { code, stdout, stderr } = await runCli(['topics', 'list', ...args])
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
    expect(stderr).toMatch(/^error: .*\n$/)
    return stderr
  }
  const notPem = file('not.pem', 'nothing\n')
  const messages = await Promise.all([
    list(...https('--token-file', token)),
    list(...https('--ca', ca)),
    list(...https('--ca', ca, '--token-file', wrong)),
    list('--hub', `wss://${hub}`, '--ca', ca),
    list(...https('--ca', notPem)),
    list(...https('--ca', join(directory, 'nowhere'))),
    list(...https('--ca', ca, '--token-file', notPem.replace('not.pem', 'empty'))),
  ])
  for (const [at, words] of [
    '--ca',
    'token',
    'token',
    'does not speak TLS',
    'no certificate',
    '--ca: ',
    '--token-file: ',
  ].entries()) {
    expect(messages[at]).toContain(words)
  }
})

test('MQTT clients without the right password get in nowhere, others go on', async () => {
  const beside = await connectAsync(`mqtt://${edge.mqtt}`, login)
  for (const url of [`mqtt://${edge.mqtt}`, `mqtts://${edge.tls}`]) {
    for (const options of [{ password: 'wrong' }, { username: 'bob' }]) {
      const attempt = connectAsync(url, { ...login, ca: cert, ...options })
      await expect(attempt).rejects.toThrow(/[Bb]ad user ?name or password/)
    }
  }
  await beside.publishAsync('n/1', 'beside', { qos: 1 })
  await beside.endAsync()
  expect((await statusOf(edge)).mqtt.refusedConnects).toBe(4)
})

test('an edge with a wrong token takes everything, says why it is not connected, and harms no other', async () => {
  const stranger = await startEdge('e2', wrong)
  await publishTo(`mqtt://${stranger.mqtt}`, 'kept')
  await eventually('the refusal', async () => (await statusOf(stranger)).alarms.length > 0)
  const { stdout } = await runCli(['edge', 'status', '--http', stranger.http])
  expect(stdout).toMatch(/NOT connected, 1 records? behind/)
  expect(stdout).toMatch(/HTTP 401: check the token/)
  expect(stdout).toMatch(/^alarm unauthorized: .*token/m)
  const listed = await runCli(['edges', 'list', '--json', ...https('--ca', ca, '--token-file', token)])
  expect(JSON.parse(listed.stdout).map(({ id }: { id: string }) => id)).toEqual(['e1'])
  await publishTo(`mqtt://${edge.mqtt}`, 'on')
  await eventually('the drain', async () => (await statusOf(edge)).lagRecords === 0)
})
