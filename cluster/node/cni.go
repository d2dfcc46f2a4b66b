package node

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// followPodCIDR writes the node's CNI configuration as soon as the cluster has
// given the node its share of the pod range. Until then the runtime reports its
// network as not ready, and so does the node.
func followPodCIDR(ctx context.Context, c Config, config *rest.Config, log *slog.Logger) error {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	source := cache.NewListWatchFromClient(client.CoreV1().RESTClient(), "nodes", metav1.NamespaceAll,
		fields.OneTermEqualSelector(metav1.ObjectNameField, c.Name))
	apply := func(obj any) {
		node, ok := obj.(*corev1.Node)
		if !ok || node.Spec.PodCIDR == "" {
			return
		}
		if err := writeCNIConfig(c, node.Spec.PodCIDR); err != nil {
			log.Error("write CNI configuration", "error", err)
		}
	}
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: source,
		ObjectType:    &corev1.Node{},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    apply,
			UpdateFunc: func(_, obj any) { apply(obj) },
		},
	})
	informer.RunWithContext(ctx)
	return nil
}

// writeCNIConfig replaces the configuration if podCIDR is another than before;
// the runtime notices by itself.
func writeCNIConfig(c Config, podCIDR string) error {
	data, err := cniConfig(c, podCIDR)
	if err != nil {
		return err
	}
	file := filepath.Join(c.Dir, "cni", "conf", "10-skiff.conflist")
	if old, err := os.ReadFile(file); err == nil && string(old) == string(data) {
		return nil
	}
	// The temporary name has another suffix, so that the runtime never reads half a file.
	if err := os.WriteFile(file+".new", data, 0o644); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// cniConfig joins the pods of a node by a bridge and serves their host ports.
// Traffic to the rest of the cluster is routed by the host, with the pod's own
// address: what must be masqueraded is decided in masquerade.go.
func cniConfig(c Config, podCIDR string) ([]byte, error) {
	type object = map[string]any
	data, err := json.MarshalIndent(object{
		"cniVersion": "1.0.0",
		"name":       "skiff",
		"plugins": []object{
			{
				"type":        "bridge",
				"bridge":      c.Bridge,
				"isGateway":   true,
				"hairpinMode": true,
				"ipam": object{
					"type":    "host-local",
					"dataDir": filepath.Join(c.Dir, "cni", "ipam"),
					"ranges":  [][]object{{{"subnet": podCIDR}}},
					"routes":  []object{{"dst": "0.0.0.0/0"}},
				},
			},
			{
				"type":         "portmap",
				"capabilities": object{"portMappings": true},
				"snat":         true,
			},
		},
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode CNI configuration: %w", err)
	}
	return data, nil
}
