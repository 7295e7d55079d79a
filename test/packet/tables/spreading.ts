/** Which downstream a datagram goes to. */
import { MANY } from '../listeners.ts';
import { NET } from '../node.ts';
import { dropped, forwarded, handed, IPV4, IPV6, type Row, type Side, toListener, twins } from '../rows.ts';

const pod = (side: Side, host: number, port: number) => ({ ip: side.ip(NET.pods, host), port });

const families = twins((side) => {
  const three = (host: number) => forwarded('three', toListener(side, 'three'), pod(side, host, 9011));
  return [
    {
      name: 'nothing where there is no downstream, and it says so',
      steps: [dropped('none', 'no_downstream', toListener(side, 'none'))],
    },
    {
      name: 'everything to the only downstream',
      steps: [1, 2, 3].map(() => forwarded('wild', toListener(side, 'wild'), pod(side, 10, 9000))),
    },
    { name: 'over three in their order, round and round', steps: [10, 11, 12, 10, 11, 12, 10].map(three) },
    {
      name: 'one sender’s datagrams as those of many',
      steps: [40000, 40000, 40001, 40000].map((sport, at) =>
        forwarded('three', toListener(side, 'three', { sport }), pod(side, [10, 11, 12, 10][at]!, 9011)),
      ),
    },
    {
      name: 'by weight, spread over the round',
      steps: [10, 11, 12, 10, 10, 11, 12, 10].map((host) =>
        forwarded('weighted', toListener(side, 'weighted'), pod(side, host, 9012)),
      ),
    },
    {
      name: `over ${MANY}, and then from the first again`,
      steps: Array.from({ length: MANY + 3 }, (_, at) =>
        forwarded('many', toListener(side, 'many'), { ip: side.ip(NET.beyond, 10 + (at % MANY)), port: 9013 }),
      ),
    },
    {
      name: 'whole packets of many datagrams, counted as datagrams',
      steps: [10, 11].map((host) => {
        const several = toListener(side, 'three', { payload: Buffer.alloc(300, 7) });
        return forwarded('three', several, pod(side, host, 9011), { gsoSize: 100, gsoSegments: 3 });
      }),
    },
    {
      name: 'what the safety net sends in turn with the rest, and no slot on what nobody can',
      steps: [
        three(10),
        handed('three', 'not_unicast', toListener(side, 'three', { dmac: 'ff:ff:ff:ff:ff:ff' }), pod(side, 11, 9011)),
        dropped('three', 'malformed', toListener(side, 'three', { udpLen: 200 })),
        three(12),
      ],
    },
  ];
});

const each = (side: Side, host: number) => forwarded('three', toListener(side, 'three'), pod(side, host, 9011));

export const SPREADING: readonly Row[] = [
  ...families,
  {
    name: 'each family by a walk of its own',
    steps: [each(IPV4, 10), each(IPV6, 10), each(IPV4, 11), each(IPV4, 12), each(IPV6, 11)],
  },
];
