import { once } from 'node:events'
import type { Socket } from 'node:net'
import { connect } from 'node:net'
import { generate } from 'mqtt-packet'

/** A bare socket on which an MQTT 3.1.1 session without keepalive was accepted. */
export async function connectMqtt(port: number, clientId: string): Promise<Socket> {
  const socket = connect(port, '127.0.0.1')
  await once(socket, 'connect')
  socket.setNoDelay(true)
  const protocol = { protocolId: 'MQTT', protocolVersion: 4 } as const
  socket.write(generate({ cmd: 'connect', ...protocol, clientId, clean: true, keepalive: 0 }))
  const [connack]: unknown[] = await once(socket, 'data')
  if (!(connack instanceof Buffer) || connack[0] !== 0x20 || connack[3] !== 0)
    throw new Error(`the broker refused ${clientId}`)
  return socket
}
