/** Data directories that a process must not touch: in use, of a newer format, no directory at all. */

import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { connectAsync } from 'mqtt'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { runCli } from '../run-cli.ts'
import type { Stage } from './stage.ts'
import { createStage, mqttPort } from './stage.ts'

let stage: Stage
let data: string
beforeEach(async () => {
  stage = createStage()
  data = join(await stage.directory(), 'data')
})
afterEach(() => stage.end())

const outcome = (starting: Promise<unknown>) => starting.catch((error: unknown) => error)

test('in use: the message names directory and process, and the holder goes on', async () => {
  const holder = await stage.edge({ data })
  const publisher = await connectAsync(`mqtt://127.0.0.1:${mqttPort(holder)}`)
  stage.later(() => publisher.endAsync(true))
  const error = await outcome(stage.edge({ data }))
  expect(error).toMatchObject({ code: 'directory_in_use', message: expect.stringContaining(data) })
  const free = ['--mqtt', '127.0.0.1:0', '--http', '127.0.0.1:0']
  for (const args of [
    ['edge', '--data', data, ...free],
    ['log', 'verify', data],
    ['log', 'repair', data],
  ]) {
    const { code, stderr } = await runCli(args)
    expect({ code, stderr }).toEqual({
      code: 1,
      stderr: expect.stringMatching(new RegExp(`^error: .*process ${process.pid}.*\\n$`)),
    })
  }
  await publisher.publishAsync('n/1', 'v', { qos: 2 })
})

test('of a newer format: refused by all, and left as it was', async () => {
  await (await stage.edge({ data })).close()
  const path = join(data, 'meta.json')
  const meta = JSON.stringify({ ...JSON.parse(readFileSync(path, 'utf8')), formatVersion: 99 })
  writeFileSync(path, meta)
  expect(await outcome(stage.edge({ data }))).toMatchObject({
    code: 'directory_newer_format',
    message: expect.stringMatching(/99/),
  })
  const { code, stderr } = await runCli(['log', 'repair', data])
  expect({ code, stderr }).toEqual({ code: 1, stderr: expect.stringMatching(/^error: .*99.*\n$/) })
  expect(readFileSync(path, 'utf8')).toBe(meta)
})

test('no directory: one line that names it, and no stack trace', async () => {
  writeFileSync(data, 'a file')
  for (const args of [
    ['hub', '--data', data, '--http', '127.0.0.1:0'],
    ['edge', '--data', join(data, 'below'), '--mqtt', '127.0.0.1:0', '--http', '127.0.0.1:0'],
    ['log', 'verify', data],
  ]) {
    const { code, stderr } = await runCli(args)
    expect({ code, stderr }).toEqual({
      code: 1,
      stderr: expect.stringMatching(/^error: .*data.* (is no data directory|can't be made).*\n$/),
    })
  }
})

test('of the other kind: a hub does not start in an edge’s, nor an edge in a hub’s', async () => {
  await (await stage.edge({ data })).close()
  const ofHub = `${data}-hub`
  await (await stage.hub({ data: ofHub })).close()
  expect(await outcome(stage.hub({ data }))).toMatchObject({
    code: 'config_invalid',
    message: expect.stringContaining('of an edge'),
  })
  expect(await outcome(stage.edge({ data: ofHub }))).toMatchObject({
    code: 'config_invalid',
    message: expect.stringContaining('of a hub'),
  })
  // As they were: each opens for its own kind.
  await stage.edge({ data })
  await stage.hub({ data: ofHub })
})
