package controlplane

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"io"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
)

// Rights is the manifest of the rights that no default role gives to the parts: those of fake nodes.
//
//go:embed rights.yaml
var Rights string

// plurals are the kinds that Apply takes.
var plurals = map[schema.GroupVersionKind]string{
	{Version: "v1", Kind: "ServiceAccount"}:                                         "serviceaccounts",
	{Version: "v1", Kind: "ConfigMap"}:                                              "configmaps",
	{Version: "v1", Kind: "Service"}:                                                "services",
	{Group: "apps", Version: "v1", Kind: "Deployment"}:                              "deployments",
	{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "ClusterRole"}:        "clusterroles",
	{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "ClusterRoleBinding"}: "clusterrolebindings",
}

// Apply applies the objects of a manifest. It owns only the fields of the manifest: what a user adds to these objects stays.
func Apply(ctx context.Context, client dynamic.Interface, manifest string) error {
	documents := yaml.NewYAMLOrJSONDecoder(bytes.NewBufferString(manifest), 4096)
	for {
		obj := &unstructured.Unstructured{}
		if err := documents.Decode(obj); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		gvk := obj.GroupVersionKind()
		plural, ok := plurals[gvk]
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
