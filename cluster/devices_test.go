package cluster_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	drav1 "k8s.io/kubelet/pkg/apis/dra/v1"
	registrationv1 "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/skiff-k8s/skiff/cluster/clustertest"
)

// deviceDriver prepares one device, which the runtime knows by CDI.
type deviceDriver struct {
	registrationv1.UnsafeRegistrationServer
	drav1.UnsafeDRAPluginServer

	mu       sync.Mutex
	prepared map[string]bool
}

const testDriver = "test.skiff.example.com"

func (d *deviceDriver) GetInfo(context.Context, *registrationv1.InfoRequest) (*registrationv1.PluginInfo, error) {
	return &registrationv1.PluginInfo{Type: registrationv1.DRAPlugin, Name: testDriver, SupportedVersions: []string{drav1.DRAPluginService}}, nil
}

func (d *deviceDriver) NotifyRegistrationStatus(context.Context, *registrationv1.RegistrationStatus) (*registrationv1.RegistrationStatusResponse, error) {
	return &registrationv1.RegistrationStatusResponse{}, nil
}

func (d *deviceDriver) NodePrepareResources(_ context.Context, r *drav1.NodePrepareResourcesRequest) (*drav1.NodePrepareResourcesResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	answer := &drav1.NodePrepareResourcesResponse{Claims: map[string]*drav1.NodePrepareResourceResponse{}}
	for _, c := range r.Claims {
		d.prepared[c.Uid] = true
		answer.Claims[c.Uid] = &drav1.NodePrepareResourceResponse{Devices: []*drav1.Device{
			{RequestNames: []string{"r", "container-0-request-0"}, PoolName: "p", DeviceName: "d", CdiDeviceIds: []string{testDriver + "/gpu=d"}},
		}}
	}
	return answer, nil
}

func (d *deviceDriver) NodeUnprepareResources(_ context.Context, r *drav1.NodeUnprepareResourcesRequest) (*drav1.NodeUnprepareResourcesResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	answer := &drav1.NodeUnprepareResourcesResponse{Claims: map[string]*drav1.NodeUnprepareResourceResponse{}}
	for _, c := range r.Claims {
		delete(d.prepared, c.Uid)
		answer.Claims[c.Uid] = &drav1.NodeUnprepareResourceResponse{}
	}
	return answer, nil
}

func (d *deviceDriver) holds() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.prepared)
}

const devicesManifest = `
apiVersion: resource.k8s.io/v1
kind: DeviceClass
metadata: {name: gpu}
spec: {extendedResourceName: example.com/gpu, selectors: [{cel: {expression: "device.driver == '` + testDriver + `'"}}]}
---
apiVersion: resource.k8s.io/v1
kind: ResourceSlice
metadata: {name: s}
spec: {driver: ` + testDriver + `, allNodes: true, pool: {name: p, generation: 1, resourceSliceCount: 1}, devices: [{name: d}]}
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {name: gpu}
spec: {spec: {devices: {requests: [{name: r, exactly: {deviceClassName: gpu}}]}}}
---
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: "localhost/skiff/examples/hello-node:v1", resources: {claims: [{name: x}]}}]
  resourceClaims: [{name: x, resourceClaimTemplateName: gpu}]
`

// extendedManifest asks for the same device as if it were an extended resource.
const extendedManifest = `
apiVersion: v1
kind: Pod
metadata: {name: q}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: "localhost/skiff/examples/hello-node:v1", resources: {limits: {example.com/gpu: 1}}}]
`

// TestDevices: a pod with a claim made of a template waits for the driver of its device, runs with the device, and
// gives it back. So does one that requests an extended resource for which the device stands.
func TestDevices(t *testing.T) {
	images := exampleImages(t)
	const specs = "/var/run/cdi" // where runtimes look
	if err := os.MkdirAll(specs, 0o755); err != nil {
		t.Fatal(err)
	}
	spec := filepath.Join(specs, testDriver+".json")
	text := `{"cdiVersion":"0.6.0","kind":"` + testDriver + `/gpu","devices":[{"name":"d","containerEdits":{"env":["DEVICE=made by CDI"]}}]}`
	if err := os.WriteFile(spec, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(spec) })
	c := clustertest.New(t, 1)
	c.Start(t)
	c.Import(t, images...)
	manifest := filepath.Join(t.TempDir(), "devices.yaml")
	apply := func(text string) {
		t.Helper()
		if err := os.WriteFile(manifest, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if out, err := c.Kubectl(t, "apply", "-f", manifest); err != nil {
			t.Fatal(out)
		}
	}
	apply(devicesManifest)
	has := func(text string) func(string) bool {
		return func(out string) bool { return strings.Contains(out, text) }
	}
	c.Until(t, has("DRA driver "+testDriver+" is not registered"), "get", "events", "--field-selector", "reason=FailedPrepareDynamicResources")

	l, err := net.Listen("unix", filepath.Join(c.DataDir, "nodes", "node-1", "kubelet", "plugins_registry", "test.sock"))
	if err != nil {
		t.Fatal(err)
	}
	d, server := &deviceDriver{prepared: make(map[string]bool)}, grpc.NewServer()
	registrationv1.RegisterRegistrationServer(server, d)
	drav1.RegisterDRAPluginServer(server, d)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) })
	defer serving.Wait()
	defer server.Stop()

	for _, pod := range []string{"p", "q"} {
		if pod == "q" {
			apply(extendedManifest)
		}
		c.Until(t, has("Running"), "get", "pod", pod)
		c.Until(t, has("made by CDI"), "exec", pod, "--", "node", "-e", "console.log(process.env.DEVICE)")
		if d.holds() != 1 {
			t.Errorf("%s: the driver has prepared %d claims, want 1", pod, d.holds())
		}
		if out, err := c.Kubectl(t, "delete", "pod", pod); err != nil {
			t.Error(out)
		}
		c.Until(t, has("No resources found"), "get", "resourceclaims")
		if d.holds() != 0 {
			t.Errorf("%s: the driver holds %d claims, want none", pod, d.holds())
		}
	}
	c.Stop(t)
}
