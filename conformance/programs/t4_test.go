//go:build programs

package programs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

// testT4 installs T4, a store of keys for clients of etcd, on a claim of a storage class: what is written there is
// there after an upgrade, a pod's end, a step back, the cluster's restart, and when the release is gone and comes again.
// The certificate that the chart makes is the same as long as the release is: it looks up what it made.
func testT4(t *testing.T, c *cluster, helm, class string) {
	r := newRelease(c, helm, filepath.Join(module(t, "t4", "github.com/t4db/t4"), "charts", "t4"))
	r.args = []string{"--set", "persistence.storageClass=" + class}
	r.install(t)
	defer c.kubectl(t, "delete", "namespace", r.namespace)
	r.put(t, "boat", "sloop")
	const claim = "data-t4-0"
	if out := r.get(t, "persistentvolumeclaim", claim, "-o", "jsonpath={.spec.storageClassName} {.status.phase}"); out != class+" Bound" {
		t.Errorf("the claim is %s", out)
	}

	t.Run("upgrade", func(t *testing.T) {
		secret := []string{"secret", "t4-client-tls", "-o", "jsonpath={.data}"}
		before, uid := r.get(t, secret...), r.uid(t)
		r.upgrade(t, "--set", "config.logLevel=debug")
		if r.uid(t) == uid {
			t.Error("the pod is the same")
		}
		if r.get(t, secret...) != before {
			t.Error("the certificate is another")
		}
		r.has(t, "boat", "sloop")
	})
	t.Run("a pod's end", func(t *testing.T) {
		c.kubectl(t, "delete", "pod", "t4-0", "--namespace", r.namespace)
		r.has(t, "boat", "sloop")
	})
	t.Run("rollback", func(t *testing.T) {
		r.put(t, "boat", "cutter")
		r.do(t, "rollback", "1", "--wait", "--timeout", "3m")
		r.has(t, "boat", "cutter")
	})
	t.Run("restart of the cluster", func(t *testing.T) {
		c.Stop(t)
		c.Start(t)
		r.has(t, "boat", "cutter")
	})
	t.Run("a second life", func(t *testing.T) {
		r.uninstall(t, "persistentvolumeclaim/"+claim)
		r.install(t)
		r.has(t, "boat", "cutter")
	})
	r.uninstall(t, "persistentvolumeclaim/"+claim)
	volume := r.get(t, "persistentvolumeclaim", claim, "-o", "jsonpath={.spec.volumeName}")
	c.kubectl(t, "delete", "persistentvolumeclaim", claim, "--namespace", r.namespace)
	c.Until(t, func(out string) bool { return !strings.Contains(out, volume) }, "get", "persistentvolumes", "-o", "name")
}

// uid is that of the release's pod.
func (r release) uid(t *testing.T) string {
	t.Helper()
	return r.get(t, "pod", "t4-0", "-o", "jsonpath={.metadata.uid}")
}

// put writes a key, by the release's load balancer.
func (r release) put(t *testing.T, key, value string) {
	t.Helper()
	r.store(t, func(ctx context.Context, kv clientv3.KV) error {
		_, err := kv.Put(ctx, key, value)
		return err
	})
}

// has sees that a key has the value that was written.
func (r release) has(t *testing.T, key, value string) {
	t.Helper()
	r.store(t, func(ctx context.Context, kv clientv3.KV) error {
		response, err := kv.Get(ctx, key)
		if err == nil && (len(response.Kvs) != 1 || string(response.Kvs[0].Value) != value) {
			t.Errorf("%s is %v, want %s", key, response.Kvs, value)
		}
		return err
	})
}

// store asks the store something, again while it is not there.
func (r release) store(t *testing.T, ask func(context.Context, clientv3.KV) error) {
	t.Helper()
	authority, err := base64.StdEncoding.DecodeString(r.get(t, "secret", "t4-client-tls", "-o", `jsonpath={.data.ca\.crt}`))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	address := r.address(t, "service/t4") + ":3379"
	client, err := clientv3.New(clientv3.Config{
		Endpoints: []string{"t4:3379"}, // the name in its certificate
		TLS:       &tls.Config{RootCAs: roots},
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		})},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		err = ask(ctx, client)
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			r.tellOf(t)
			t.Fatal(err)
		}
	}
}

// testLocalPath installs the local path provisioner, which makes volumes for the claims of a class of its own, with a
// pod for each.
func testLocalPath(t *testing.T, c *cluster, helm string) {
	r := newRelease(c, helm, filepath.Join(module(t, "local-path-provisioner", "github.com/rancher/local-path-provisioner"), "deploy", "chart", "local-path-provisioner"))
	r.args = []string{"--set", "nodePathMap[0].node=DEFAULT_PATH_FOR_NON_LISTED_NODES,nodePathMap[0].paths[0]=" + filepath.Join(c.DataDir, "local-path")}
	r.install(t)
	defer c.kubectl(t, "delete", "namespace", r.namespace)
	t.Run("t4 on its class", func(t *testing.T) { testT4(t, c, helm, "local-path") })
	r.uninstall(t)
}
