package workloads

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// history keeps the ControllerRevisions of one kind of owner: immutable snapshots of pod templates, numbered in
// the order in which they were last current.
type history struct {
	client kubernetes.Interface
	index  cache.Indexer
	kind   schema.GroupVersionKind
}

// of returns the revisions of an owner after adoption and release.
func (h history) of(ctx context.Context, owner metav1.Object, selector labels.Selector, live func(context.Context) (metav1.Object, error)) ([]*appsv1.ControllerRevision, error) {
	candidates, err := family[*appsv1.ControllerRevision](h.index, owner)
	if err != nil {
		return nil, err
	}
	return take(ctx, claim{
		owner: owner, kind: h.kind, selector: selector, live: live,
		patch: func(ctx context.Context, revision metav1.Object, data []byte) error {
			_, err := h.client.AppsV1().ControllerRevisions(revision.GetNamespace()).Patch(ctx, revision.GetName(), types.StrategicMergePatchType, data, metav1.PatchOptions{})
			return err
		},
	}, candidates)
}

// renumber gives a revision a new number and returns the result.
func (h history) renumber(ctx context.Context, revision *appsv1.ControllerRevision, number int64) (*appsv1.ControllerRevision, error) {
	if revision.Revision == number {
		return revision, nil
	}
	revision = revision.DeepCopy()
	revision.Revision = number
	updated, err := h.client.AppsV1().ControllerRevisions(revision.Namespace).Update(ctx, revision, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("renumber revision %s: %w", revision.Name, err)
	}
	return updated, nil
}

func (h history) remove(ctx context.Context, revision *appsv1.ControllerRevision) error {
	err := h.client.AppsV1().ControllerRevisions(revision.Namespace).Delete(ctx, revision.Name, metav1.DeleteOptions{})
	if err != nil {
		return fmt.Errorf("delete revision %s: %w", revision.Name, err)
	}
	return nil
}

// newRevision makes a snapshot. The hash is put into name and the given label.
func (h history) newRevision(owner object, template *corev1.PodTemplateSpec, number int64, name, label, hash string) *appsv1.ControllerRevision {
	return &appsv1.ControllerRevision{
		ObjectMeta: metav1.ObjectMeta{
			Name:            name,
			Namespace:       owner.GetNamespace(),
			Labels:          withLabel(template.Labels, label, hash),
			Annotations:     maps.Clone(owner.GetAnnotations()),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(owner, h.kind)},
		},
		Data:     runtime.RawExtension{Raw: templatePatch(template)},
		Revision: number,
	}
}

// templatePatch is what a revision stores: a strategic merge patch that restores the template, as compact JSON
// with sorted keys. Revisions are compared by these bytes, so no release may write them in another way.
func templatePatch(template *corev1.PodTemplateSpec) []byte {
	data, err := json.Marshal(template)
	if err != nil {
		panic(err) // an API type always encodes
	}
	var fields map[string]any
	if err := json.Unmarshal(data, &fields); err != nil {
		panic(err) // we wrote it
	}
	fields["$patch"] = "replace"
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"template": fields}})
	if err != nil {
		panic(err)
	}
	return patch
}

// dataHash names revision data. The count makes it another name after a collision.
func dataHash(data []byte, collisions *int32) string {
	hash := fnv.New32a()
	hash.Write(data)
	if collisions != nil {
		hash.Write(binary.LittleEndian.AppendUint32(nil, uint32(*collisions)))
	}
	return rand.SafeEncodeString(fmt.Sprint(hash.Sum32()))
}

// highestRevision returns the highest number among revisions, 0 if there are none.
func highestRevision(revisions []*appsv1.ControllerRevision) (highest int64) {
	for _, r := range revisions {
		highest = max(highest, r.Revision)
	}
	return highest
}

// excess is how many of n old objects are beyond a history limit. Without a limit all are kept, and also with a
// negative one, which only StatefulSets may have.
func excess(n int, limit *int32) int {
	if limit == nil || *limit < 0 {
		return 0
	}
	return max(n-int(*limit), 0)
}
