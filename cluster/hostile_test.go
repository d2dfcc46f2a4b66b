package cluster_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/skiff-k8s/skiff/cluster/clustertest"
	"github.com/skiff-k8s/skiff/cluster/image"
)

const hostileImage = "localhost/skiff/test/hostile:v1"

// makeHostile makes the image of testdata/hostile.
func makeHostile(t *testing.T) (archive string) {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "hostile")
	build := exec.Command("go", "build", "-o", program, "./testdata/hostile")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	archive, err := image.Image{
		Reference: hostileImage,
		Layers:    []image.Layer{{image.File{From: program, To: "hostile"}, image.Folder{To: "dev", Mode: 0o755}}},
		Config:    v1.Config{Entrypoint: []string{"/hostile"}},
	}.Ensure(dir)
	if err != nil {
		t.Fatal(err)
	}
	return archive
}

// TestHostilePods has real containers leave for the kubelet what it should not touch, and ask for what is
// not theirs. The node survives it, and the pods are told what is wrong.
func TestHostilePods(t *testing.T) {
	archive := makeHostile(t)
	c := clustertest.New(t, 1)
	var subnet int
	if _, err := fmt.Sscanf(c.PodCIDR, "10.%d.", &subnet); err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("172.31.%d.1:5000", subnet) // of this machine, as the nodes of c see it
	t.Setenv("SKIFF_REGISTRY_MIRROR", "http://"+address)
	t.Setenv("SKIFF_ALLOWED_UNSAFE_SYSCTLS", "kernel.msg*")
	c.Start(t)
	c.Import(t, archive)
	create := func(t *testing.T, manifest string) {
		t.Helper()
		file := filepath.Join(t.TempDir(), "pod.yaml")
		if err := os.WriteFile(file, []byte(manifest), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := c.Kubectl(t, "create", "-f", file); err != nil {
			t.Fatal(out)
		}
	}
	// status waits until a pod's status has the text, and takes the pod away, which a worker that hangs
	// would not let happen.
	status := func(t *testing.T, pod, path, want string) {
		t.Helper()
		c.Until(t, func(out string) bool { return strings.Contains(out, want) }, "get", "pod", pod, "-o=jsonpath="+path)
		if out, err := c.Kubectl(t, "delete", "pod", pod, "--grace-period=1", "--timeout=60s"); err != nil {
			t.Errorf("delete pod %s: %s", pod, out)
		}
	}

	for _, what := range []string{"fifo", "sparse", "link"} {
		t.Run("environment file is a "+what, func(t *testing.T) {
			create(t, podYAML("env-"+what, "{name: KEY, valueFrom: {fileKeyRef: {volumeName: v, path: left, key: KEY}}}", "/v", "", what, "/v/left"))
			status(t, "env-"+what, "{.status.containerStatuses[0].state.waiting}", `"couldn't parse env file","reason":"CreateContainerConfigError"`)
		})
	}
	for what, want := range map[string]string{"fifo": "is not a regular file", "sparse": strings.Repeat(`\u0000`, 100)} {
		t.Run("termination message is a "+what, func(t *testing.T) {
			create(t, podYAML("message-"+what, "", "/dev/termination-log", "left", what, "/v/left"))
			status(t, "message-"+what, "{.status.containerStatuses[0].state.terminated}", want)
		})
	}
	if peak := peakMemory(t, c); peak > 1<<20 {
		t.Errorf("the node took up to %d MiB of memory", peak>>10)
	}

	t.Run("sysctls", func(t *testing.T) {
		for name, want := range map[string]string{
			"kernel.shm_rmid_forced": "Succeeded", "kernel.msgmax": "Succeeded",
			"net.ipv4.conf.all.forwarding": `Failed SysctlForbidden Pod was rejected: forbidden sysctl: "net.ipv4.conf.all.forwarding" not allowlisted`,
		} {
			pod := strings.NewReplacer(".", "-", "_", "-").Replace(name)
			create(t, fmt.Sprintf(`{apiVersion: v1, kind: Pod, metadata: {name: %s}, spec: {restartPolicy: Never,
				securityContext: {sysctls: [{name: %s, value: "1"}]},
				containers: [{name: c, image: %q, imagePullPolicy: Never, args: [exit, "0"]}]}}`, pod, name, hostileImage))
			status(t, pod, "{.status.phase} {.status.reason} {.status.message}", want)
		}
	})

	t.Run("private image", func(t *testing.T) {
		pulls := servePrivate(t, address, archive)
		if out, err := c.Kubectl(t, "create", "secret", "docker-registry", "right", "--docker-server=r.example", "--docker-username=u", "--docker-password=right"); err != nil {
			t.Fatal(out)
		}
		private := func(pod, policy, secret string) {
			create(t, fmt.Sprintf(`{apiVersion: v1, kind: Pod, metadata: {name: %s}, spec: {restartPolicy: Never, imagePullSecrets: [%s],
				containers: [{name: c, image: "r.example/private:1", imagePullPolicy: %s, args: [exit, "0"]}]}}`, pod, secret, policy))
		}
		private("owner", "IfNotPresent", "{name: right}")
		status(t, "owner", "{.status.phase}", "Succeeded")
		pulled := pulls.Load()
		private("again", "Never", "{name: right}")
		status(t, "again", "{.status.phase}", "Succeeded")
		if again := pulls.Load(); again != pulled || pulled == 0 {
			t.Errorf("the registry gave the manifest %d times to the first pod and %d to both, want once", pulled, again)
		}
		private("stranger", "IfNotPresent", "")
		status(t, "stranger", "{.status.containerStatuses[0].state.waiting.reason}", "ImagePullBackOff")
		private("stranger-never", "Never", "")
		status(t, "stranger-never", "{.status.containerStatuses[0].state.waiting}", `Container image \"r.example/private:1\" is not present with pull policy of Never`)

		c.Kill() // records outlive the kubelet
		c.Start(t)
		private("stranger-later", "Never", "")
		status(t, "stranger-later", "{.status.containerStatuses[0].state.waiting.reason}", "ErrImageNeverPull")
		private("owner-later", "Never", "{name: right}")
		status(t, "owner-later", "{.status.phase}", "Succeeded")
	})
	c.Stop(t)
}

// podYAML is a pod whose first container leaves something in a volume, and whose second one mounts the
// volume and fails.
func podYAML(name, env, mountPath, subPath string, leave ...string) string {
	return fmt.Sprintf(`{apiVersion: v1, kind: Pod, metadata: {name: %s}, spec: {restartPolicy: Never,
		initContainers: [{name: i, image: %[2]q, imagePullPolicy: Never, args: [%[6]s], volumeMounts: [{name: v, mountPath: /v}]}],
		containers: [{name: c, image: %[2]q, imagePullPolicy: Never, args: [exit, "1"], env: [%[3]s],
			volumeMounts: [{name: v, mountPath: %[4]s, subPath: %[5]q}]}],
		volumes: [{name: v, emptyDir: {}}]}}`, name, hostileImage, env, mountPath, subPath, strings.Join(leave, ", "))
}

// peakMemory is the most memory in KiB that a process of the cluster's node has had.
func peakMemory(t *testing.T, c *clustertest.Cluster) (peak int) {
	t.Helper()
	pids, err := exec.Command("pgrep", "-f", "^"+c.Program+" node").Output()
	if err != nil {
		t.Fatalf("no process of a node: %v", err)
	}
	for pid := range strings.FieldsSeq(string(pids)) {
		data, err := os.ReadFile("/proc/" + pid + "/status")
		if err != nil {
			t.Fatal(err)
		}
		_, after, _ := strings.Cut(string(data), "VmHWM:")
		kib, err := strconv.Atoi(strings.Fields(after)[0])
		if err != nil {
			t.Fatal(err)
		}
		peak = max(peak, kib)
	}
	return peak
}

// servePrivate is a registry that gives the archive's image, whatever its name, to who has the password. It
// counts how often.
func servePrivate(t *testing.T, address, archive string) *atomic.Int32 {
	t.Helper()
	img, err := tarball.ImageFromPath(archive, nil)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	given := &atomic.Int32{}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, password, _ := r.BasicAuth(); password != "right" {
			w.Header().Set("WWW-Authenticate", `Basic realm="private"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		kind, data, err := part(img, r.URL.Path)
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		if strings.Contains(r.URL.Path, "/manifests/") && r.Method == http.MethodHead {
			given.Add(1)
		}
		w.Header().Set("Content-Type", kind)
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		if r.Method == http.MethodGet {
			_, _ = w.Write(data)
		}
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close(); <-done })
	return given
}

// part is what an image has at a path of the distribution protocol.
func part(img v1.Image, path string) (contentType string, data []byte, err error) {
	manifest, err := img.Manifest()
	if err != nil {
		return "", nil, err
	}
	if strings.Contains(path, "/manifests/") {
		data, err = img.RawManifest()
		return string(manifest.MediaType), data, err
	}
	digest := path[strings.LastIndexByte(path, '/')+1:]
	if digest == manifest.Config.Digest.String() {
		data, err = img.RawConfigFile()
		return "application/octet-stream", data, err
	}
	hash, err := v1.NewHash(digest)
	if err != nil {
		return "", nil, err
	}
	layer, err := img.LayerByDigest(hash)
	if err != nil {
		return "", nil, err
	}
	blob, err := layer.Compressed()
	if err != nil {
		return "", nil, err
	}
	defer blob.Close()
	data, err = io.ReadAll(blob)
	return "application/octet-stream", data, err
}
