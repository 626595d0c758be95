#!/usr/bin/env bash
# Kubernetes' API server with its store and the controllers of Deployments, without a node (see src/cluster/alone.rs): Pods are
# objects, which nobody runs.
# Environment: S, an empty folder; PATH with the binaries; PORTS, three ports of 127.0.0.1 that nobody has.
# Says how far it has come in $S/ready, and goes on until it is killed.
set -uo pipefail
cd "$S"
read -r STORE PEER API <<< "$PORTS"
openssl genrsa -out sa.key 2048 2> /dev/null
openssl req -x509 -newkey rsa:2048 -nodes -days 30 -keyout ca.key -out ca.crt -subj /CN=server-ca 2> /dev/null
openssl req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=kubernetes 2> /dev/null
openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -out server.crt \
    -extfile <(printf 'subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth\n') 2> /dev/null
printf 'admin-token,admin,1,"system:masters"\n' > tokens.csv
cat > kubeconfig <<X
apiVersion: v1
kind: Config
clusters: [{name: r, cluster: {server: "https://127.0.0.1:$API", certificate-authority: "$S/ca.crt"}}]
users: [{name: a, user: {token: admin-token}}]
contexts: [{name: r, context: {cluster: r, user: a}}]
current-context: r
X
export KUBECONFIG=$S/kubeconfig
etcd --data-dir etcd --listen-client-urls "http://127.0.0.1:$STORE" --advertise-client-urls "http://127.0.0.1:$STORE" \
    --listen-peer-urls "http://127.0.0.1:$PEER" --initial-advertise-peer-urls "http://127.0.0.1:$PEER" \
    --initial-cluster "default=http://127.0.0.1:$PEER" > etcd.log 2>&1 &
# Without the controllers that make accounts, no Pod could be made with one.
kube-apiserver --etcd-servers="http://127.0.0.1:$STORE" --cert-dir=certs --tls-cert-file=server.crt \
    --tls-private-key-file=server.key --secure-port="$API" --bind-address=127.0.0.1 --advertise-address=127.0.0.1 \
    --service-account-key-file=sa.key --service-account-signing-key-file=sa.key \
    --service-account-issuer=https://kubernetes.default.svc --token-auth-file=tokens.csv --authorization-mode=RBAC \
    --service-cluster-ip-range=10.96.0.0/16 --disable-admission-plugins=ServiceAccount > apiserver.log 2>&1 &
until kubectl get --raw /readyz > /dev/null 2>&1; do sleep 0.3; done
kube-controller-manager --kubeconfig=kubeconfig --leader-elect=false --secure-port=0 \
    --controllers=deployment-controller,replicaset-controller > controllers.log 2>&1 &
touch ready
wait
