#!/usr/bin/env bash
# Is this cluster ready for udp-fanout, and is udp-fanout ready in it? Reads and changes nothing.
# Backticks in single quotes are commands for the reader.
# shellcheck disable=SC2016
set -uo pipefail

usage() {
  cat <<'USAGE'
k8s/check-cluster.sh [--config FILE] [--namespace NS] [--context NAME]

  --config FILE    the agent's config; default: the ConfigMap udp-fanout of the cluster, if it is there
  --namespace NS   where the agent lives; default: udp-fanout
  --context NAME   kubectl's context; default: the current one

A line for each finding: ok, warn or fail, what it means and what to do. What only a node knows (interfaces, sysctls,
other tc programs) is told by `udp-fanout doctor` in the agent's pod.

Exit code: 0 nothing fails, 1 something does, 2 bad usage.
USAGE
}

die() {
  printf 'check-cluster.sh: %s\n' "$1" >&2
  exit 2
}

config=
namespace=udp-fanout
context=()
while (($# > 0)); do
  case $1 in
    --config | --namespace | --context)
      [[ -n ${2:-} && $2 != --* ]] || die "$1 wants a value"
      case $1 in
        --config) config=$2 ;;
        --namespace) namespace=$2 ;;
        --context) context=(--context "$2") ;;
      esac
      shift
      ;;
    -h | --help)
      usage
      exit 0
      ;;
    *) die "unknown option $1; --help has all" ;;
  esac
  shift
done
[[ -z $config || -r $config ]] || die "--config \"$config\": no such file"

failed=0
ok() { printf 'ok    %s: %s\n' "$1" "$2"; }
warn() { printf 'warn  %s: %s; %s\n' "$1" "$2" "$3"; }
fail() {
  printf 'fail  %s: %s; %s\n' "$1" "$2" "$3"
  failed=1
}

# Fails where there is no answer; for `get NAME --ignore-not-found` an object that is not there is an empty one.
k() { kubectl ${context[@]+"${context[@]}"} --request-timeout=15s "$@" 2>/dev/null; }

# True if version $1 (v1.29.5+k3s1, 5.14.0-284.el9) is at least $2 (1.21).
at_least() {
  local major minor
  IFS=. read -r major minor _ <<<"${1#v}"
  minor=${minor%%[!0-9]*}
  [[ $major =~ ^[0-9]+$ && -n $minor ]] || return 1
  ((major > ${2%.*} || (major == ${2%.*} && 10#$minor >= ${2#*.})))
}

check_access() {
  if ! command -v kubectl >/dev/null; then
    fail kubectl 'is not on PATH' 'install it: kubernetes.io/docs/tasks/tools'
    return 1
  fi
  local version
  version=$(k get --raw /version | sed -n 's/.*"gitVersion": *"\([^"]*\)".*/\1/p')
  if [[ -z $version ]]; then
    fail 'API server' 'does not answer' 'see `kubectl cluster-info` and KUBECONFIG'
    return 1
  fi
  if at_least "$version" 1.19; then
    ok 'API server' "Kubernetes $version"
  else
    fail 'API server' "Kubernetes $version is older than 1.19 and has no EndpointSlices that udp-fanout can read" 'upgrade'
  fi
}

check_slices_api() {
  local group
  group=$(k get --raw /apis/discovery.k8s.io)
  case $group in
    *'discovery.k8s.io/v1"'*) ok 'EndpointSlice API' 'discovery.k8s.io/v1' ;;
    *'discovery.k8s.io/v1beta1"'*) ok 'EndpointSlice API' 'discovery.k8s.io/v1beta1 alone (before 1.21): the agent takes it' ;;
    *) fail 'EndpointSlice API' 'discovery.k8s.io is not served' 'see `kubectl api-resources --api-group=discovery.k8s.io`' ;;
  esac
}

check_nodes() {
  local nodes name kernel arch os
  if ! nodes=$(k get nodes -o jsonpath='{range .items[*]}{.metadata.name}{"|"}{.status.nodeInfo.kernelVersion}{"|"}{.status.nodeInfo.architecture}{"|"}{.status.nodeInfo.operatingSystem}{"\n"}{end}'); then
    warn nodes 'cannot be listed' 'ask for the right to list nodes, or look at `uname -r` on each'
    return
  fi
  if [[ -z $nodes ]]; then
    warn nodes 'the cluster has none' 'no agent and no receiver can run before one joins'
    return
  fi
  while IFS='|' read -r name kernel arch os; do
    if [[ $os != linux ]]; then
      ok "node $name" "runs $os, where no agent is scheduled"
    elif [[ $arch != amd64 && $arch != arm64 ]]; then
      fail "node $name" "is $arch, the image is for amd64 and arm64" 'keep the DaemonSet away with a nodeSelector'
    elif at_least "$kernel" 5.10; then
      ok "node $name" "$arch, kernel $kernel"
    else
      fail "node $name" "kernel $kernel is older than 5.10" 'take a newer one, or set mode: userspace'
    fi
  done <<<"$nodes"
}

check_cilium() {
  local where=$1 value
  setting() { k -n "$where" get configmap cilium-config -o "jsonpath={.data.$1}"; }
  value=$(setting bpf-filter-priority)
  if [[ $(setting enable-tcx) == false && ${value:-1} -ge 32768 ]]; then
    ok CNI "Cilium, at pref $value: it runs after udp_fanout"
    return
  fi
  warn CNI "Cilium: its programs run first, and what they take for their own never comes to ours" \
    'set enable-tcx: "false" and bpf-filter-priority: "50000" in cilium-config and restart the nodes, or use mode: userspace'
  case $(setting kube-proxy-replacement) in
    true | strict) warn CNI 'Cilium replaces kube-proxy: it takes the Service IPs itself, on the interface' \
      'until its programs run after ours, no listener can have the address and port of a LoadBalancer Service' ;;
  esac
}

check_cni() {
  local sets known=0
  if ! sets=$(k get daemonsets -A -o jsonpath='{range .items[*]}{.metadata.namespace}{"/"}{.metadata.name}{"\n"}{end}'); then
    warn CNI 'cannot be seen: DaemonSets of all namespaces cannot be listed' 'ask for the right to list them, or see docs/TROUBLESHOOTING.md for your CNI'
    return
  fi
  while IFS=/ read -r where name; do
    case $name in
      cilium) check_cilium "$where" ;;
      calico-node | canal) ok CNI "$name in $where: routed, so the loop guard matters (0.0.0.0 never takes transit); with BGP see rp_filter on the nodes; iptables policy is bypassed (docs/SECURITY.md)" ;;
      kube-flannel-ds | kube-flannel) ok CNI "flannel in $where: pods have an MTU of 1450 with vxlan: larger datagrams take the slow path (mtu_exceeded); port 8472 is its own" ;;
      ovnkube-node) ok CNI "OVN in $where: pods have an MTU of 1400; on OpenShift: oc adm policy add-scc-to-user privileged -z udp-fanout -n $namespace" ;;
      kindnet | antrea-agent | weave-net | aws-node) ok CNI "$name in $where" ;;
      kube-proxy) ok kube-proxy 'serves what never reaches our interface: senders on nodes and in pods'; continue ;;
      speaker | metallb-speaker) ok MetalLB 'brings the VIPs of LoadBalancer Services that have a ready endpoint: bind their addresses'; continue ;;
      *) continue ;;
    esac
    known=1
  done <<<"$sets"
  ((known)) && return
  if [[ -n $(k get nodes -o 'jsonpath={.items[*].metadata.annotations.flannel\.alpha\.coreos\.com/backend-type}') ]]; then
    ok CNI 'flannel, built in (k3s): pods have an MTU of 1450 with vxlan: larger datagrams take the slow path (mtu_exceeded)'
  else
    ok CNI 'none that this script knows; any that gives pods routed addresses will do'
  fi
}

# name|interface|namespace|service|port of each listener of a config in the usual layout, also {in: one line}.
listeners() {
  sed -E 's/(^|[[:space:]])#.*$//' | awk '
    function value(text) { sub(/^[^:]*:[ ]*/, "", text); gsub(/["'\''\r]|[ ]+$/, "", text); return text }
    function set(text) {
      if (text ~ /^namespace:/) namespace = value(text)
      else if (text ~ /^service:/) service = value(text)
      else if (text ~ /^port:/) port = value(text)
    }
    function flush() { if (name != "") print name "|" nic "|" namespace "|" service "|" port; name = nic = namespace = service = port = "" }
    /^[a-z]/ { flush(); inside = ($1 == "listeners:"); base = -1; next }
    !inside { next }
    {
      line = $0; sub(/^[ ]*/, "", line); indent = length($0) - length(line)
      if (line ~ /^- /) {
        if (base < 0) base = indent
        # A deeper one is a downstream.
        if (indent > base) next
        flush(); inner = 0; sub(/^- */, "", line)
      }
      if (line ~ /^kubernetes:[ ]*\{/) {
        sub(/^[^{]*\{[ ]*/, "", line); sub(/[ ]*\}.*/, "", line)
        count = split(line, part, /,[ ]*/); for (i = 1; i <= count; i++) set(part[i])
      } else if (line ~ /^kubernetes:/) inner = 1
      else if (inner && line ~ /^(namespace|service|port):/) set(line)
      else {
        inner = 0
        if (line ~ /^name:/ && indent <= base + 2) name = value(line)
        if (line ~ /^interfaces?:/) { nic = value(line); gsub(/[][]/, "", nic); gsub(/,[ ]*/, " ", nic) }
      }
    }
    END { flush() }'
}

check_right() {
  local where=$1 verb answer
  for verb in get list watch; do
    answer=$(kubectl ${context[@]+"${context[@]}"} auth can-i "$verb" endpointslices.discovery.k8s.io -n "$where" \
      "--as=system:serviceaccount:$namespace:udp-fanout" 2>&1)
    case $answer in
      yes) continue ;;
      *impersonate*) warn "RBAC $where" 'cannot be checked: you may not impersonate the service account' 'ask an administrator, or see the log of the agent' ;;
      *) fail "RBAC $where" "the agent may not $verb endpointslices" "kubectl apply the Role and RoleBinding of k8s/components/tenant there (k8s/rbac.yaml does it for logging)" ;;
    esac
    return
  done
  ok "RBAC $where" 'the agent may get, list and watch endpointslices'
}

check_service() {
  local where=$1 service=$2 port=$3 protocols addresses ready all
  if ! protocols=$(k -n "$where" get service "$service" --ignore-not-found -o 'jsonpath={.spec.ports[*].protocol}'); then
    warn "Service $where/$service" 'cannot be read' "ask for the right to get Services in $where"
    return
  fi
  case " $protocols " in
    '  ') fail "Service $where/$service" 'is not there' "create it with a UDP port, headless or not (clusterIP: None)"; return ;;
    *' UDP '*) ;;
    *) fail "Service $where/$service" "has no UDP port, only $protocols" 'add protocol: UDP to its port'; return ;;
  esac
  if ! addresses=$(k -n "$where" get endpointslices -l "kubernetes.io/service-name=$service" \
    -o 'jsonpath={range .items[*]}{.ports[*].port}{" "}{range .endpoints[*]}{.addresses[0]}{"="}{.conditions.ready}{" "}{end}{"\n"}{end}'); then
    warn "Service $where/$service" 'its endpoints cannot be listed' "ask for the right to list EndpointSlices in $where"
    return
  fi
  all=$(grep -o '[^ ]*=[a-z]*' <<<"$addresses" | sort -u)
  # A condition that is not set means ready.
  ready=$(grep -c -v '=false$' <<<"$all")
  if [[ -z $all ]]; then
    fail "Service $where/$service" 'has no endpoints' "kubectl -n $where get pods: does the selector match?"
  elif ((ready == 0)); then
    fail "Service $where/$service" 'has no ready endpoint' "kubectl -n $where get pods: why are they not Ready?"
  elif [[ $port =~ ^[0-9]+$ && ! $addresses =~ (^|[[:space:]])${port}[[:space:]] ]]; then
    warn "Service $where/$service" "no endpoint has port $port" 'kubernetes.port is the port of the receivers (targetPort), not of the Service'
  else
    ok "Service $where/$service" "$ready of $(wc -l <<<"$all") endpoints are ready"
  fi
}

check_listeners() {
  local text name nic where service port seen=' '
  if [[ -n $config ]]; then
    text=$(<"$config")
  else
    if ! text=$(k -n "$namespace" get configmap udp-fanout --ignore-not-found -o 'jsonpath={.data.config\.yaml}'); then
      warn config "the ConfigMap udp-fanout in $namespace cannot be read" 'ask for the right to get it, or name a file with --config'
      return
    fi
  fi
  if [[ -z $text ]]; then
    warn config "there is no ConfigMap udp-fanout in $namespace" 'deploy k8s/daemonset.yaml, or name a file with --config'
    return
  fi
  while IFS='|' read -r name nic where service port; do
    [[ -n $nic ]] && ok "listener $name" "takes interface ${nic}: each node must have it (kubectl -n $namespace exec daemonset/udp-fanout -- ip link show)"
    if [[ -z $service ]]; then
      ok "listener $name" 'has a fixed list of downstreams and asks nothing of the API'
      continue
    fi
    where=${where:-$namespace}
    [[ $seen == *" $where "* ]] || check_right "$where"
    seen+="$where "
    check_service "$where" "$service" "$port"
  done < <(listeners <<<"$text")
}

# Pods that do not answer before the others are left alone: what keeps one from it keeps most.
patience=3

# What an agent that is ready says all the same. What cannot be asked is said, since an edited config shows nowhere else.
check_remarks() {
  local pods pod answer silent=0 asked=0
  local doctor='udp-fanout doctor --config /etc/udp-fanout/config.yaml'
  pods=$(k -n "$namespace" get pods -l app.kubernetes.io/name=udp-fanout -o 'jsonpath={.items[*].metadata.name}')
  read -ra pods <<<"$pods"
  if ((${#pods[@]} == 0)); then
    warn pods 'cannot be listed, and so not be asked whether they follow their config' "ask for the right to list pods in $namespace, or run doctor in each"
    return
  fi
  case $(k -n "$namespace" auth can-i get pods --subresource=proxy) in
    no | 'no '*)
      warn pods 'cannot be asked whether they follow their config' "ask for the right to get pods/proxy in $namespace, or run doctor in each: kubectl -n $namespace exec ${pods[0]} -- $doctor"
      return
      ;;
  esac
  for pod in "${pods[@]}"; do
    ((asked += 1))
    # The last timeout that is given counts.
    if answer=$(k get --raw "/api/v1/namespaces/$namespace/pods/$pod/proxy/readyz" --request-timeout=5s); then
      say_remarks "$pod" "$answer"
      continue
    fi
    warn "pod $pod" 'cannot be asked whether it follows its config: /readyz does not answer by way of the API server' "is metrics.bind within its reach? Or run doctor in it: kubectl -n $namespace exec $pod -- $doctor"
    ((silent += 1))
    if ((silent == patience && asked < ${#pods[@]})); then
      warn pods "$((${#pods[@]} - asked)) of ${#pods[@]} were not asked, since $patience did not answer" 'mend those first, or run doctor in each'
      return
    fi
  done
}

say_remarks() {
  local pod=$1 remark
  while IFS= read -r remark; do
    case $remark in
      ok) ;;
      config:*) fail "pod $pod" "$remark" "until then it forwards by its old config" ;;
      ?*) warn "pod $pod" "$remark" "kubectl -n $namespace logs $pod" ;;
    esac
  done <<<"$2"
}

check_agent() {
  local label counts wanted ready pod node state
  if ! label=$(k get namespace "$namespace" --ignore-not-found -o 'jsonpath={.metadata.name} {.metadata.labels.pod-security\.kubernetes\.io/enforce}'); then
    warn namespace "$namespace cannot be read" 'ask for the right to get it, or look at its pod-security labels'
  elif [[ -z $label ]]; then
    warn namespace "$namespace is not there" 'kubectl apply -k k8s/'
    return
  fi
  case $label in
    *' baseline' | *' restricted') fail namespace "$namespace enforces pod security \"${label#* }\", which refuses hostNetwork" "kubectl label namespace $namespace pod-security.kubernetes.io/enforce=privileged --overwrite" ;;
  esac
  if ! counts=$(k -n "$namespace" get daemonset udp-fanout --ignore-not-found -o 'jsonpath={.status.desiredNumberScheduled} {.status.numberReady}'); then
    warn DaemonSet "udp-fanout in $namespace cannot be read" 'ask for the right to get it'
    return
  fi
  if [[ -z $counts ]]; then
    warn DaemonSet "udp-fanout is not in $namespace" 'kubectl apply -k k8s/'
    return
  fi
  read -r wanted ready <<<"$counts"
  if [[ ${wanted:-0} == 0 ]]; then
    warn DaemonSet 'is scheduled on no node' 'see its nodeSelector and the labels of the nodes'
    return
  fi
  if [[ $wanted == "${ready:-0}" ]]; then
    ok DaemonSet "$ready of $wanted pods are Ready"
    check_remarks
    printf 'ok    next: what only nodes know: kubectl -n %s exec daemonset/udp-fanout -- udp-fanout doctor --config /etc/udp-fanout/config.yaml\n' "$namespace"
    return
  fi
  fail DaemonSet "${ready:-0} of $wanted pods are Ready" "kubectl -n $namespace logs daemonset/udp-fanout, and /readyz names what is missing"
  while IFS='|' read -r pod node state; do
    [[ -z $pod || $state == True ]] || fail "pod $pod" "on $node is not Ready" "kubectl -n $namespace describe pod $pod; kubectl -n $namespace logs $pod"
  done < <(k -n "$namespace" get pods -l app.kubernetes.io/name=udp-fanout -o jsonpath='{range .items[*]}{.metadata.name}{"|"}{.spec.nodeName}{"|"}{.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}')
}

if check_access; then
  check_slices_api
  check_nodes
  check_cni
  check_listeners
  check_agent
fi
exit "$failed"
