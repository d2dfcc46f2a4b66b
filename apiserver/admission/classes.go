package admission

import (
	"cmp"
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	storagev1 "k8s.io/api/storage/v1"
)

// defaultStorageClass gives claims that name no class the newest class that is
// marked as default, if there is one.
func defaultStorageClass() Plugin {
	const isDefault, isDefaultBeta = "storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"
	return Plugin{Name: "DefaultStorageClass", Mutate: func(ctx context.Context, a *Attributes) error {
		claim, ok := a.New.(*corev1.PersistentVolumeClaim)
		if !ok || a.Verb != create || a.Subresource != "" || claim.Spec.StorageClassName != nil {
			return nil
		}
		if _, old := claim.Annotations[corev1.BetaStorageClassAnnotation]; old {
			return nil
		}
		classes, err := list[*storagev1.StorageClass](ctx, a.Cluster, storagev1.GroupName, "storageclasses", "")
		if err != nil {
			return a.forbid("%w", err)
		}
		var newest *storagev1.StorageClass
		for _, c := range classes {
			if c.Annotations[isDefault] != "true" && c.Annotations[isDefaultBeta] != "true" {
				continue
			}
			if newest == nil || newer(c, newest) {
				newest = c
			}
		}
		if newest != nil {
			claim.Spec.StorageClassName = &newest.Name
		}
		return nil
	}}
}

// newer orders by time of creation, names deciding between equals.
func newer(a, b *storagev1.StorageClass) bool {
	if a.CreationTimestamp.Equal(&b.CreationTimestamp) {
		return a.Name < b.Name
	}
	return b.CreationTimestamp.Before(&a.CreationTimestamp)
}

// defaultIngressClass gives ingresses that name no class the newest class that
// is marked as default, if there is one.
func defaultIngressClass() Plugin {
	const oldAnnotation = "kubernetes.io/ingress.class"
	return Plugin{Name: "DefaultIngressClass", Mutate: func(ctx context.Context, a *Attributes) error {
		ingress, ok := a.New.(*networkingv1.Ingress)
		if !ok || a.Verb != create || a.Subresource != "" || ingress.Spec.IngressClassName != nil {
			return nil
		}
		if _, old := ingress.Annotations[oldAnnotation]; old {
			return nil
		}
		classes, err := list[*networkingv1.IngressClass](ctx, a.Cluster, networkingv1.GroupName, "ingressclasses", "")
		if err != nil {
			return a.forbid("%w", err)
		}
		classes = slices.DeleteFunc(classes, func(c *networkingv1.IngressClass) bool {
			return c.Annotations[networkingv1.AnnotationIsDefaultIngressClass] != "true"
		})
		if len(classes) == 0 {
			return nil
		}
		newest := slices.MinFunc(classes, func(x, y *networkingv1.IngressClass) int {
			return cmp.Or(y.CreationTimestamp.Compare(x.CreationTimestamp.Time), cmp.Compare(x.Name, y.Name))
		})
		ingress.Spec.IngressClassName = &newest.Name
		return nil
	}}
}

// storageObjectInUseProtection keeps volumes and claims until nothing uses them
// any more: a controller removes the finalizer then.
func storageObjectInUseProtection() Plugin {
	finalizers := map[string]string{
		"/persistentvolumes":                     "kubernetes.io/pv-protection",
		"/persistentvolumeclaims":                "kubernetes.io/pvc-protection",
		"storage.k8s.io/volumeattributesclasses": "kubernetes.io/vac-protection",
	}
	return Plugin{Name: "StorageObjectInUseProtection", Mutate: func(_ context.Context, a *Attributes) error {
		finalizer := finalizers[a.Resource.Group+"/"+a.Resource.Plural]
		obj := a.Object()
		if finalizer == "" || a.Verb != create || a.Subresource != "" || obj == nil {
			return nil
		}
		if !slices.Contains(obj.GetFinalizers(), finalizer) {
			obj.SetFinalizers(append(obj.GetFinalizers(), finalizer))
		}
		return nil
	}}
}

// topologyLabels are what pods learn of the node they are put on (KEP-4742).
var topologyLabels = []string{corev1.LabelTopologyZone, corev1.LabelTopologyRegion}

// podTopologyLabels copies the topology labels of the node to the pod that is
// bound to it, by way of the binding's labels.
func podTopologyLabels() Plugin {
	return Plugin{Name: "PodTopologyLabels", Mutate: func(ctx context.Context, a *Attributes) error {
		if a.Verb != create {
			return nil
		}
		node := ""
		binding, isBinding := a.New.(*corev1.Binding)
		switch {
		case isBinding && binding.Target.Kind == "Node":
			node = binding.Target.Name
		case a.newPod() != nil:
			node = a.newPod().Spec.NodeName
		}
		if node == "" {
			return nil
		}
		obj := a.Object()
		for key, value := range nodeTopology(ctx, a, node) {
			labels := obj.GetLabels()
			if labels == nil {
				labels = make(map[string]string)
			}
			labels[key] = value
			obj.SetLabels(labels)
		}
		return nil
	}}
}

// nodeTopology is empty for a node that is not there: pods may be bound to
// nodes to come.
func nodeTopology(ctx context.Context, a *Attributes, name string) map[string]string {
	node, err := get[*corev1.Node](ctx, a.Cluster, "", "nodes", "", name)
	if err != nil {
		return nil
	}
	topology := make(map[string]string)
	for _, key := range topologyLabels {
		if value, ok := node.Labels[key]; ok {
			topology[key] = value
		}
	}
	return topology
}
