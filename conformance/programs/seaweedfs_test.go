//go:build programs

package programs

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// testSeaweedFS installs SeaweedFS, a store of objects in four parts, three of them StatefulSets on claims. A hook makes
// a bucket when they are there. What is written by S3, through an Ingress, is there after an upgrade for which a hook
// grows a claim, and the keys that the chart made are the same: it looks up both.
func testSeaweedFS(t *testing.T, c *cluster, helm string) {
	r := newRelease(c, helm, filepath.Join(module(t, "seaweedfs", "github.com/seaweedfs/seaweedfs"), "k8s", "charts", "seaweedfs"))
	r.install(t)
	defer c.kubectl(t, "delete", "namespace", r.namespace)
	const object = "a sloop has one mast"
	address, key := r.address(t, "ingress/ingress-seaweedfs-s3"), r.s3Key(t)
	t.Run("objects", func(t *testing.T) {
		if out := r.get(t, "jobs", "-o", "name"); out != "" {
			t.Errorf("the hook is still there: %s", out)
		}
		if out := r.get(t, "networkpolicies", "-o", "name"); len(strings.Fields(out)) != 5 {
			t.Errorf("the policies of the network are\n%s", out)
		}
		s3(t, address, key, "/boats/sloop", "--fail-with-body", "-X", "PUT", "--data-binary", object, "-H", "Content-Type: text/plain",
			"-H", fmt.Sprintf("X-Amz-Content-Sha256: %x", sha256.Sum256([]byte(object))))
		if got := s3(t, address, key, "/boats/sloop", "--fail-with-body"); got != object {
			t.Errorf("the object is %q", got)
		}
		if got := s3(t, address, "", "/boats/sloop"); !strings.Contains(got, "AccessDenied") {
			t.Errorf("without a key: %s", got)
		}
	})
	t.Run("upgrade", func(t *testing.T) {
		r.upgrade(t, "--set", "volume.dataDirs[0].size=3Gi")
		r.until(t, is("3Gi 3Gi"), "persistentvolumeclaim", "data1-seaweedfs-volume-0", "-o", "jsonpath={.spec.resources.requests.storage} {.status.capacity.storage}")
		if r.s3Key(t) != key {
			t.Error("the keys are others")
		}
		if got := s3(t, address, key, "/boats/sloop", "--fail-with-body"); got != object {
			t.Errorf("the object is %q", got)
		}
	})
	t.Run("pods' end", func(t *testing.T) {
		c.kubectl(t, "delete", "pods", "--all", "--namespace", r.namespace)
		c.kubectl(t, "rollout", "status", "statefulset,deployment", "--namespace", r.namespace, "--timeout=3m")
		if got := s3(t, address, key, "/boats/sloop", "--fail-with-body"); got != object {
			t.Errorf("the object is %q", got)
		}
	})
	// The chart keeps its keys, and Helm the hooks that it is not told to delete; claims of StatefulSets stay anyway.
	r.uninstall(t, "secret/seaweedfs-s3-secret", "serviceaccount/seaweedfs-volume-resize-hook",
		"role.rbac.authorization.k8s.io/seaweedfs-volume-resize-hook", "rolebinding.rbac.authorization.k8s.io/seaweedfs-volume-resize-hook",
		"networkpolicy.networking.k8s.io/seaweedfs-volume-resize-hook",
		"persistentvolumeclaim/data-seaweedfs-seaweedfs-master-0", "persistentvolumeclaim/data1-seaweedfs-volume-0", "persistentvolumeclaim/data-filer-seaweedfs-filer-0")
}

// s3Key is the administrator's key, as curl wants it.
func (r release) s3Key(t *testing.T) string {
	t.Helper()
	var parts []string
	for _, part := range []string{"admin_access_key_id", "admin_secret_access_key"} {
		value, err := base64.StdEncoding.DecodeString(r.get(t, "secret", "seaweedfs-s3-secret", "-o", "jsonpath={.data."+part+"}"))
		if err != nil || len(value) == 0 {
			t.Fatalf("%s: %q %v", part, value, err)
		}
		parts = append(parts, string(value))
	}
	return strings.Join(parts, ":")
}

// s3 asks the store by its Ingress, as whoever has the key, again while it is not there.
func s3(t *testing.T, address, key, path string, args ...string) string {
	t.Helper()
	args = append([]string{"--silent", "--show-error", "--retry", "60", "--retry-delay", "1", "--retry-max-time", "60", "--resolve", "s3.example.com:80:" + address,
		"http://s3.example.com" + path}, args...)
	if key != "" {
		args = append(args, "--user", key, "--aws-sigv4", "aws:amz:us-east-1:s3")
	}
	out, err := exec.Command("curl", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("curl %s: %v\n%s", path, err, out)
	}
	return string(out)
}
