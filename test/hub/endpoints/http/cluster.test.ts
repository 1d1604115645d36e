import { afterEach, describe, expect, it } from 'vitest'
import { runCli } from '../../../run-cli.ts'
import type { Served } from './serve.ts'
import { closeServed, serve } from './serve.ts'

afterEach(closeServed)

async function withTopic(): Promise<Served> {
  const hub = await serve()
  await hub.fake.topics.create({ name: 'telemetry', partitions: 2 })
  return hub
}

describe('the cluster over REST', () => {
  it('shows how it is, its nodes and where partitions are', async () => {
    const hub = await withTopic()
    expect((await hub.call('GET', '/v1/cluster')).json).toMatchObject({ controllerId: 1, underReplicated: 3 })
    const nodes = JSON.parse((await hub.call('GET', '/v1/cluster/nodes')).text)
    expect(nodes).toMatchObject({ nodes: [{ nodeId: 1 }, { nodeId: 2 }, { nodeId: 3 }] })
    const { json } = await hub.call('GET', '/v1/topics/telemetry/placement')
    expect(json.partitions[0]).toMatchObject({ leader: 2, replicas: [1, 2, 3], isr: [2, 3] })
    expect((await hub.call('GET', '/v1/topics/none/placement')).status).toBe(404)
  })

  it('drains and removes nodes', async () => {
    const hub = await serve()
    expect((await hub.call('DELETE', '/v1/cluster/nodes/3')).json.error.message).toContain('drain it first')
    expect((await hub.call('POST', '/v1/cluster/nodes/3/drain', {})).status).toBe(204)
    expect(hub.fake.cluster.nodes().at(2)?.state).toBe('draining')
    expect((await hub.call('POST', '/v1/cluster/nodes/3/drain', { draining: false })).status).toBe(204)
    expect(hub.fake.cluster.nodes().at(2)?.state).toBe('active')
    expect((await hub.call('POST', '/v1/cluster/nodes/9/drain', {})).status).toBe(404)
    for (const id of ['0', 'x', '1.5']) {
      expect((await hub.call('DELETE', `/v1/cluster/nodes/${id}`)).json.error.message).toContain(
        'node ids are',
      )
    }
  })

  it('moves leaders and replicas', async () => {
    const hub = await withTopic()
    expect((await hub.call('POST', '/v1/cluster/balance', {})).text).toBe('{"moved":2}')
    const reassign = (body: unknown) => hub.call('POST', '/v1/topics/telemetry/reassign', body)
    expect((await reassign({ replication: 3 })).text).toBe('{"partitions":12}')
    expect((await reassign({ replication: 0 })).json.error.message).toContain('at least 1')
    const elect = (body: unknown) => hub.call('POST', '/v1/topics/telemetry/elect-unclean', body)
    expect((await elect({ partition: 1 })).text).toBe('{"leader":3}')
    expect((await elect({})).json.error.message).toContain('body.partition')
  })
})

describe('tributary cluster', () => {
  const run = (hub: Served, ...args: string[]) => runCli(['cluster', ...args, '--hub', hub.url])

  it('shows how it is, for people and machines', async () => {
    const hub = await serve()
    const status = (await run(hub, 'status')).stdout
    expect(status).toMatch(/well +no: partitions below min/)
    expect(status).toMatch(/controller +node 1 \(term 7\)\nnodes active +3 of 3\n/)
    expect(status).toMatch(/^telemetry +1 +2 +1 2 3 +2 +2\ntelemetry +2 +none +3 +none +1$/m)
    expect(status).toContain('cluster elect-unclean TOPIC PARTITION')
    expect(JSON.parse((await run(hub, 'status', '--json')).stdout)).toEqual(hub.fake.cluster.status())
    expect((await run(hub, 'nodes')).stdout).toMatch(/1 +active, controller +10\.0\.0\.1:7600/)
  })

  it('waits for a node to be drained, showing how far it is', async () => {
    const hub = await serve()
    const drained = await run(hub, 'drain', '2', '--json')
    expect(JSON.parse(drained.stdout)).toEqual({ node: 2, replicasLeft: 0 })
    expect(drained.stderr).toContain('draining node 2 [')
    expect((await run(hub, 'remove', '2')).stdout).toBe('removed node 2\n')
    expect(await run(hub, 'remove', '2')).toMatchObject({ code: 1, stdout: '' })
  })

  it('moves leaders and replicas', async () => {
    const hub = await withTopic()
    expect((await run(hub, 'balance')).stdout).toBe('moved 2 leaderships\n')
    expect((await run(hub, 'reassign', 'telemetry')).stdout).toContain('12 partitions of telemetry')
    expect((await run(hub, 'elect-unclean', 'telemetry', '1')).stdout).toBe('node 3 leads telemetry/1\n')
  })
})
