//go:build programs

package programs

import (
	"os"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/skiff-k8s/skiff/cluster/clustertest"
	"github.com/skiff-k8s/skiff/cluster/image"
)

// TestApplications installs charts that want of their cluster what applications do: claims, balancers, Ingresses,
// autoscaling, budgets, hooks. Each goes through its life with Helm 3 and then with Helm 4. The values in testdata are
// what is not as the chart has it.
func TestApplications(t *testing.T) {
	if os.Getenv("SKIFF_PROGRAMS") == "" {
		t.Fatal("SKIFF_PROGRAMS does not name the folder of the programs: run this with make")
	}
	c := &cluster{clustertest.New(t, 1)}
	c.Start(t)
	c.importStandIns(t)
	for _, helm := range []string{"helm", "helm4"} {
		t.Run("podinfo with "+helm, func(t *testing.T) { testPodinfo(t, c, helm) })
		t.Run("t4 with "+helm, func(t *testing.T) { testT4(t, c, helm, "standard") })
		t.Run("local-path-provisioner with "+helm, func(t *testing.T) { testLocalPath(t, c, helm) })
		t.Run("seaweedfs with "+helm, func(t *testing.T) { testSeaweedFS(t, c, helm) })
		t.Run("gatekeeper with "+helm, func(t *testing.T) { testGatekeeper(t, c, helm) })
	}
}

const path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// importStandIns gives the node the images that the charts name: of their own programs, built from the modules that
// the charts are from, and of packages of the distribution.
func (c *cluster) importStandIns(t *testing.T) {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "skiff", "images")
	var archives []string
	for _, i := range standIns(t, dir) {
		archive, err := i.Ensure(dir)
		if err != nil {
			t.Fatal(err)
		}
		archives = append(archives, archive)
	}
	c.Import(t, archives...)
}

// standIns are the images; packages are downloaded to a folder.
func standIns(t *testing.T, cache string) []image.Image {
	program := func(name, to string) image.File {
		return image.File{From: filepath.Join(os.Getenv("SKIFF_PROGRAMS"), name), To: to}
	}
	packages := func(names ...string) image.Layer {
		return append(image.Layer{image.Packages{Names: append(names, "dash", "grep"), Cache: cache}}, image.Accounts...)
	}
	shell := append(image.Layer{program("busybox", "bin/busybox"), image.Applets{Program: "bin/busybox"}}, image.Accounts...)
	podinfo := module(t, "podinfo", "github.com/stefanprodan/podinfo")
	crds, err := filepath.Glob(filepath.Join(module(t, "gatekeeper", "github.com/open-policy-agent/gatekeeper/v3"), "charts", "gatekeeper", "crds", "*.yaml"))
	if err != nil || len(crds) == 0 {
		t.Fatalf("no definitions of Gatekeeper: %v", err)
	}
	definitions := image.Layer{image.File{From: filepath.Join(clustertest.Tools(t), "kubectl"), To: "kubectl"}}
	for _, crd := range crds {
		definitions = append(definitions, image.File{From: crd, To: filepath.Join("crds", filepath.Base(crd)), Mode: 0o644})
	}
	curl := []image.Layer{packages("curl", "jq", "ca-certificates")}
	return []image.Image{
		{Reference: "curlimages/curl:7.69.0", Layers: curl, Config: v1.Config{Env: []string{path}, User: "100"}},
		{Reference: "giantswarm/tiny-tools:v1", Layers: curl, Config: v1.Config{Env: []string{path}}},
		{Reference: "alpine:3.11", Layers: []image.Layer{shell}, Config: v1.Config{Env: []string{path}}},
		{Reference: "redis:7.0.7", Layers: []image.Layer{packages("redis-server", "redis-tools")}, Config: v1.Config{Env: []string{path}}},
		{Reference: "stefanprodan/grpc_health_probe:v0.3.0", Layers: []image.Layer{{program("podinfo/grpc-health-probe", "bin/grpc_health_probe")}}, Config: v1.Config{Env: []string{path}}},
		{Reference: "curlimages/curl:8.20.0", Layers: curl, Config: v1.Config{Env: []string{path}, User: "100"}},
		{Reference: "openpolicyagent/gatekeeper-crds:v3.23.1", Layers: []image.Layer{definitions}, Config: v1.Config{Entrypoint: []string{"/kubectl"}, User: "65532:65532"}},
		{Reference: "openpolicyagent/gatekeeper:v3.23.1", Layers: []image.Layer{{program("gatekeeper", "manager")}, image.Accounts}, Config: v1.Config{Entrypoint: []string{"/manager"}, User: "65532:65532"}},
		{Reference: "ghcr.io/t4db/t4:0.12.2", Layers: []image.Layer{shell, {program("t4", "t4")}}, Config: v1.Config{Entrypoint: []string{"/t4"}, Env: []string{path}, User: "65532:65532"}},
		{Reference: "chrislusf/seaweedfs:4.53", Layers: []image.Layer{packages("curl"), shell, {program("seaweedfs", "usr/bin/weed")}}, Config: v1.Config{Env: []string{path}, WorkingDir: "/data"}},
		{Reference: "alpine/k8s:1.28.4", Layers: []image.Layer{shell, {image.File{From: filepath.Join(clustertest.Tools(t), "kubectl"), To: "usr/bin/kubectl"}}}, Config: v1.Config{Env: []string{path}}},
		{Reference: "busybox:1.37", Layers: []image.Layer{shell}, Config: v1.Config{Env: []string{path}}},
		{Reference: "rancher/local-path-provisioner:v0.0.30", Layers: []image.Layer{{program("local-path-provisioner", "usr/bin/local-path-provisioner")}, image.Accounts}, Config: v1.Config{Env: []string{path}}},
		{
			Reference: "ghcr.io/stefanprodan/podinfo:6.9.2",
			Layers: []image.Layer{{
				program("podinfo/podinfo", "home/app/podinfo"), program("podinfo/podcli", "usr/local/bin/podcli"),
				image.File{From: filepath.Join(podinfo, "ui", "vue.html"), To: "home/app/ui/vue.html", Mode: 0o644},
			}, image.Accounts},
			Config: v1.Config{Cmd: []string{"./podinfo"}, Env: []string{path}, User: "100", WorkingDir: "/home/app"},
		},
	}
}
