#!/usr/bin/env bash
# A real one-node Kubernetes with KEDA, inside network and process namespaces of its own (see src/cluster/mod.rs):
# nothing of it is reachable from outside, and all of it ends with this process.
# Environment: S, a folder that is empty but for images/*.tar; PATH with the binaries; CRDS, the folder with KEDA's.
# Says how far it has come in $S/ready, and goes on until it is killed.
set -uo pipefail
cd "$S" && mkdir -p certs cni keda logs
NODE=10.245.0.1 PODS=10.244.0.0/24 SERVICES=10.96.0.0/16
ip link set lo up; ip addr add $NODE/32 dev lo; ip route add $SERVICES dev lo; echo 1 > /proc/sys/net/ipv4/ip_forward
readlink /proc/self/ns/net > namespace

# --- certificates and credentials: a CA for clients, another for the aggregation layer (they must differ), a service-account key
openssl genrsa -out certs/sa.key 2048 2> /dev/null
ca() { openssl req -x509 -newkey rsa:2048 -nodes -days 30 -keyout "$1.key" -out "$1.crt" -subj "/CN=$2" 2> /dev/null; }
leaf() {
    openssl req -newkey rsa:2048 -nodes -keyout "$1.key" -out "$1.csr" -subj "/CN=$2" 2> /dev/null
    openssl x509 -req -in "$1.csr" -CA "$3.crt" -CAkey "$3.key" -CAcreateserial -days 30 -out "$1.crt" \
        -extfile <(printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth,clientAuth\n' "$4") 2> /dev/null
}
ca certs/client-ca client-ca; ca keda/ca keda-ca
leaf keda/tls keda-operator.keda.svc keda/ca \
    "DNS:keda-operator.keda.svc,DNS:keda-operator-metrics-apiserver.keda.svc,DNS:localhost,IP:127.0.0.1,IP:$NODE"
# What Pods check the API server by.
ca certs/server-ca server-ca
leaf certs/server kubernetes certs/server-ca "DNS:kubernetes,DNS:kubernetes.default.svc,DNS:localhost,IP:127.0.0.1,IP:$NODE,IP:10.96.0.1"
printf 'admin-token,admin,1,"system:masters"\n' > certs/tokens.csv
cat > kubeconfig <<X
apiVersion: v1
kind: Config
clusters: [{name: r, cluster: {server: "https://127.0.0.1:6443", certificate-authority: "$S/certs/server-ca.crt"}}]
users: [{name: a, user: {token: admin-token}}]
contexts: [{name: r, context: {cluster: r, user: a}}]
current-context: r
X
export KUBECONFIG=$S/kubeconfig

# --- containers: containerd with a bridge network and a sandbox image of our own
cat > containerd.toml <<X
version = 2
root = "$S/containerd"
state = "$S/containerd-state"
[grpc]
  address = "$S/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/rig/pause:1"
  restrict_oom_score_adj = true # else runc dies: "can't get final child's PID from pipe"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$S/cni"
X
cat > cni/10-rig.conflist <<X
{"cniVersion":"0.4.0","name":"rig","plugins":[{"type":"bridge","bridge":"rigbr0","isGateway":true,"hairpinMode":true,"ipam":{"type":"host-local","dataDir":"$S/ipam","ranges":[[{"subnet":"$PODS"}]],"routes":[{"dst":"0.0.0.0/0"}]}},{"type":"portmap","capabilities":{"portMappings":true}}]}
X
containerd -c containerd.toml > logs/containerd 2>&1 &
until ctr -a "$S/containerd.sock" version > /dev/null 2>&1; do sleep 0.2; done
for image in images/*.tar; do ctr -a "$S/containerd.sock" -n k8s.io images import "$image" > /dev/null; done

# --- the control plane and the node
etcd --data-dir etcd --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
    --listen-peer-urls http://127.0.0.1:2380 > logs/etcd 2>&1 &
kube-apiserver --etcd-servers=http://127.0.0.1:2379 --cert-dir=certs --tls-cert-file=certs/server.crt \
    --tls-private-key-file=certs/server.key --secure-port=6443 --bind-address=0.0.0.0 \
    --advertise-address=$NODE --external-hostname=$NODE --service-account-key-file=certs/sa.key \
    --service-account-signing-key-file=certs/sa.key --service-account-issuer=https://kubernetes.default.svc \
    --token-auth-file=certs/tokens.csv --client-ca-file=certs/client-ca.crt --authorization-mode=RBAC \
    --service-cluster-ip-range=$SERVICES --allow-privileged --kubelet-preferred-address-types=InternalIP \
    --enable-aggregator-routing=true --requestheader-client-ca-file=keda/ca.crt --requestheader-allowed-names= \
    --requestheader-extra-headers-prefix=X-Remote-Extra- --requestheader-group-headers=X-Remote-Group \
    --requestheader-username-headers=X-Remote-User --proxy-client-cert-file=keda/tls.crt \
    --proxy-client-key-file=keda/tls.key > logs/apiserver 2>&1 &
until kubectl get --raw /readyz > /dev/null 2>&1; do sleep 0.3; done
kube-controller-manager --kubeconfig=kubeconfig --service-account-private-key-file=certs/sa.key \
    --root-ca-file=certs/server-ca.crt --use-service-account-credentials --leader-elect=false \
    ${CONTROLLERS:-} > logs/controllers 2>&1 &
kube-scheduler --kubeconfig=kubeconfig --leader-elect=false > logs/scheduler 2>&1 &
cat > kubelet.yaml <<X
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
containerRuntimeEndpoint: unix://$S/containerd.sock
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
failSwapOn: false
localStorageCapacityIsolation: false
enforceNodeAllocatable: []
clusterDNS: [$NODE]
clusterDomain: cluster.local
resolvConf: $S/resolv.conf
X
printf 'nameserver %s\n' "$NODE" > resolv.conf
kubelet --kubeconfig=kubeconfig --config=kubelet.yaml --root-dir="$S/kubelet" --hostname-override=rig --node-ip=$NODE \
    > logs/kubelet 2>&1 &
cat > kube-proxy.yaml <<X
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clientConnection: {kubeconfig: $S/kubeconfig}
hostnameOverride: rig
clusterCIDR: $PODS
conntrack: {maxPerCore: 0}
X
kube-proxy --config=kube-proxy.yaml > logs/proxy 2>&1 &
cat > Corefile <<X
cluster.local:53 {
    bind $NODE
    kubernetes cluster.local { kubeconfig $S/kubeconfig
      ttl 1 }
}
X
coredns -conf Corefile > logs/dns 2>&1 &
# Nodes that are annotated so have it say that their Pods run.
kwok --kubeconfig=kubeconfig --config="$(dirname "$(command -v kwok)")/stages.yaml" --cidr=10.250.0.0/16 \
    --manage-all-nodes=false --manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake > logs/kwok 2>&1 &

# --- KEDA: operator and metrics adapter as processes, the APIService by way of the node's address
kubectl create -f "$CRDS" > /dev/null
kubectl apply -f - > /dev/null <<X
apiVersion: v1
kind: Namespace
metadata: {name: keda}
---
apiVersion: v1
kind: Service
metadata: {name: keda-operator-metrics-apiserver, namespace: keda}
spec: {ports: [{name: https, port: 443, targetPort: 16443}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: keda-metrics, namespace: keda, labels: {kubernetes.io/service-name: keda-operator-metrics-apiserver}}
addressType: IPv4
ports: [{name: https, port: 16443}]
endpoints: [{addresses: [$NODE], conditions: {ready: true}}]
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1beta1.external.metrics.k8s.io}
spec: {group: external.metrics.k8s.io, version: v1beta1, groupPriorityMinimum: 100, versionPriority: 100, insecureSkipTLSVerify: true, service: {name: keda-operator-metrics-apiserver, namespace: keda, port: 443}}
X
export KEDA_CLUSTER_OBJECT_NAMESPACE=keda WATCH_NAMESPACE= POD_NAMESPACE=keda
# Processes here find Services as Pods do.
cp resolv.conf own-resolv.conf; printf 'search svc.cluster.local cluster.local\noptions ndots:5\n' >> own-resolv.conf
mount --bind own-resolv.conf /etc/resolv.conf
keda-operator --kubeconfig=kubeconfig --cert-dir="$S/keda" --leader-elect=false > logs/keda-operator 2>&1 &
keda-adapter --kubeconfig=kubeconfig --authentication-kubeconfig=kubeconfig --authorization-kubeconfig=kubeconfig \
    --lister-kubeconfig=kubeconfig --cert-dir="$S/keda" --secure-port=16443 --port=18080 \
    --metrics-service-address=127.0.0.1:9666 --metrics-service-grpc-authority=keda-operator.keda.svc > logs/keda-adapter 2>&1 &
until kubectl wait --for=condition=Ready node/rig --timeout=60s > /dev/null 2>&1; do sleep 0.5; done
until kubectl get --raw /apis/external.metrics.k8s.io/v1beta1 > /dev/null 2>&1; do sleep 0.5; done
touch ready
wait
