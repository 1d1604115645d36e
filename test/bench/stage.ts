/** Hub and edge as real processes for the benchmarks. */

import { execFile } from 'node:child_process'
import { copyFile, mkdir, symlink, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { stringify } from 'yaml'
import type { TributaryClient } from '../../common/client.ts'
import { connect } from '../../common/client.ts'
import { nodeEnv } from '../../common/env-node.ts'
import type { Child } from '../../demo/child.ts'
import { createChild, freePorts } from '../../demo/child.ts'

const ROOT = resolve(import.meta.dirname, '../..')
const SCRIPT = join(ROOT, 'main.ts')

export interface BenchStage {
  hub: Child
  edge: Child
  hubData: string
  edgeData: string
  mqttPort: number
  edgeUrl: string
  client: TributaryClient
  stop(): Promise<void>
}

/** Compiles the project as its package holds it; returns its command's script. */
export async function buildPackage(directory: string): Promise<string> {
  const folder = join(directory, 'package')
  await mkdir(folder)
  const compiler = join(ROOT, 'node_modules/.bin/tsc')
  const args = ['-p', join(ROOT, 'tsconfig.build.json'), '--outDir', join(folder, 'dist')]
  await promisify(execFile)(compiler, args)
  await copyFile(join(ROOT, 'package.json'), join(folder, 'package.json'))
  await symlink(join(ROOT, 'node_modules'), join(folder, 'node_modules'))
  return join(folder, 'dist/main.js')
}

/** Nothing is started yet; `edgeConfig` is the edge's section of the configuration, `script` the command's. */
export async function createBenchStage(
  directory: string,
  edgeConfig: Record<string, unknown>,
  script = SCRIPT,
): Promise<BenchStage> {
  await mkdir(directory, { recursive: true })
  const [hubPort = 0, mqttPort = 0, edgePort = 0] = await freePorts(3)
  const hubUrl = `http://127.0.0.1:${hubPort}`
  const edgeUrl = `http://127.0.0.1:${edgePort}`
  const config = join(directory, 'edge.yaml')
  await writeFile(
    config,
    stringify({ edge: { uplink: { backoffMinMs: '50ms', backoffMaxMs: '200ms' }, ...edgeConfig } }),
  )
  const hubData = join(directory, 'hub')
  const edgeData = join(directory, 'edge')
  const hub = createChild({
    name: 'hub',
    script,
    args: ['hub', '--data', hubData, '--http', `127.0.0.1:${hubPort}`, '--log-level', 'warn'],
    readyUrl: `${hubUrl}/readyz`,
    readyTimeoutMs: 60_000,
  })
  const listen = ['--mqtt', `127.0.0.1:${mqttPort}`, '--http', `127.0.0.1:${edgePort}`]
  const edge = createChild({
    name: 'edge',
    script,
    args: ['edge', '--config', config, '--data', edgeData, '--hub', hubUrl, ...listen, '--log-level', 'warn'],
    readyUrl: `${edgeUrl}/healthz`,
    readyTimeoutMs: 60_000,
  })
  const client = connect({ hub: hubUrl, env: nodeEnv() })
  return {
    hub,
    edge,
    hubData,
    edgeData,
    mqttPort,
    edgeUrl,
    client,
    stop: async () => {
      await client.close()
      await edge.stop(20_000)
      await hub.stop(20_000)
    },
  }
}
