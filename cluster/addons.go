package cluster

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"io"
	"text/template"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
)

// dnsImage is made on the spot around the CoreDNS of the tools.
const dnsImage = "localhost/skiff/coredns:latest"

//go:embed dns.yaml
var dnsManifest string

//go:embed rights.yaml
var rightsManifest string

// addonResources are the kinds the manifests use.
var addonResources = map[schema.GroupVersionKind]string{
	{Version: "v1", Kind: "ServiceAccount"}:                                         "serviceaccounts",
	{Version: "v1", Kind: "ConfigMap"}:                                              "configmaps",
	{Version: "v1", Kind: "Service"}:                                                "services",
	{Group: "apps", Version: "v1", Kind: "Deployment"}:                              "deployments",
	{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "ClusterRole"}:        "clusterroles",
	{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "ClusterRoleBinding"}: "clusterrolebindings",
}

// addons applies what a cluster on one machine has besides its components. It
// owns only the fields of the manifests: what a user adds to these objects
// stays.
func (r *run) addons(ctx context.Context) error {
	client, err := dynamic.NewForConfig(r.plane.config(adminUser))
	if err != nil {
		return err
	}
	manifests := []string{rightsManifest}
	if r.Nodes > 0 {
		var dns bytes.Buffer
		if err := template.Must(template.New("dns").Parse(dnsManifest)).Execute(&dns, map[string]any{
			"Domain": r.Domain, "Addresses": r.dns(), "Families": r.ServiceCIDRs.Families(), "Image": dnsImage,
		}); err != nil {
			return err
		}
		manifests = append(manifests, dns.String())
	}
	clients, err := kubernetes.NewForConfig(r.plane.config(adminUser))
	if err != nil {
		return err
	}
	return r.step("rights, DNS and storage class", func() error {
		for _, manifest := range manifests {
			if err := apply(ctx, client, manifest); err != nil {
				return err
			}
		}
		return defaultClass(ctx, clients)
	})
}

func apply(ctx context.Context, client dynamic.Interface, manifest string) error {
	documents := yaml.NewYAMLOrJSONDecoder(bytes.NewBufferString(manifest), 4096)
	for {
		obj := &unstructured.Unstructured{}
		if err := documents.Decode(obj); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		gvk := obj.GroupVersionKind()
		plural, ok := addonResources[gvk]
		if !ok {
			return fmt.Errorf("the manifest has a %s, which this program cannot apply", gvk)
		}
		var objects dynamic.ResourceInterface = client.Resource(gvk.GroupVersion().WithResource(plural))
		if ns := obj.GetNamespace(); ns != "" {
			objects = client.Resource(gvk.GroupVersion().WithResource(plural)).Namespace(ns)
		}
		if _, err := objects.Apply(ctx, obj.GetName(), obj, metav1.ApplyOptions{FieldManager: "skiff", Force: true}); err != nil {
			return fmt.Errorf("apply %s %s: %w", gvk.Kind, obj.GetName(), err)
		}
	}
}
