package workloads

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// ReplicationController keeps as many pods running as each ReplicationController asks for. It is the ReplicaSet
// loop on controllers seen as sets; only reading and writing differ.
func ReplicationController(d Deps) (reconcile.Controller, error) {
	controllers := d.Informers.Core().V1().ReplicationControllers()
	return replicaController(d, replicaKind{
		kind:      replicationControllerKind,
		component: "replication-controller",
		informer:  controllers.Informer(),
		list: func(namespace string) ([]*appsv1.ReplicaSet, error) {
			list, err := controllers.Lister().ReplicationControllers(namespace).List(labels.Everything())
			if err != nil {
				return nil, err
			}
			sets := make([]*appsv1.ReplicaSet, 0, len(list))
			for _, rc := range list {
				sets = append(sets, setFrom(rc))
			}
			return sets, nil
		},
		get: func(key reconcile.Key) (*appsv1.ReplicaSet, error) {
			rc, err := controllers.Lister().ReplicationControllers(key.Namespace).Get(key.Name)
			if err != nil {
				return nil, err
			}
			return setFrom(rc), nil
		},
		live: func(ctx context.Context, set *appsv1.ReplicaSet) (metav1.Object, error) {
			return d.Client.CoreV1().ReplicationControllers(set.Namespace).Get(ctx, set.Name, metav1.GetOptions{})
		},
		updateStatus: func(ctx context.Context, set *appsv1.ReplicaSet) error {
			_, err := d.Client.CoreV1().ReplicationControllers(set.Namespace).UpdateStatus(ctx, controllerFrom(set), metav1.UpdateOptions{})
			return err
		},
		siblings: func(set *appsv1.ReplicaSet) ([]*appsv1.ReplicaSet, error) {
			return []*appsv1.ReplicaSet{set}, nil
		},
	})
}

// setFrom shows a ReplicationController as a ReplicaSet. Its type says what it is, for events. The result
// shares memory with rc and must not be changed.
func setFrom(rc *corev1.ReplicationController) *appsv1.ReplicaSet {
	replicas := int32(1)
	if rc.Spec.Replicas != nil {
		replicas = *rc.Spec.Replicas
	}
	set := &appsv1.ReplicaSet{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ReplicationController"},
		ObjectMeta: rc.ObjectMeta,
		Spec: appsv1.ReplicaSetSpec{
			Replicas:        &replicas,
			MinReadySeconds: rc.Spec.MinReadySeconds,
			Selector:        &metav1.LabelSelector{MatchLabels: rc.Spec.Selector},
		},
		Status: appsv1.ReplicaSetStatus{
			Replicas:             rc.Status.Replicas,
			FullyLabeledReplicas: rc.Status.FullyLabeledReplicas,
			ReadyReplicas:        rc.Status.ReadyReplicas,
			AvailableReplicas:    rc.Status.AvailableReplicas,
			ObservedGeneration:   rc.Status.ObservedGeneration,
		},
	}
	if rc.Spec.Template != nil {
		set.Spec.Template = *rc.Spec.Template
	}
	for _, c := range rc.Status.Conditions {
		set.Status.Conditions = append(set.Status.Conditions, appsv1.ReplicaSetCondition{
			Type: appsv1.ReplicaSetConditionType(c.Type), Status: c.Status,
			LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
		})
	}
	return set
}

// controllerFrom is the way back. The status subresource ignores the spec, yet the spec must be valid.
func controllerFrom(set *appsv1.ReplicaSet) *corev1.ReplicationController {
	rc := &corev1.ReplicationController{
		ObjectMeta: set.ObjectMeta,
		Spec: corev1.ReplicationControllerSpec{
			Replicas:        set.Spec.Replicas,
			MinReadySeconds: set.Spec.MinReadySeconds,
			Selector:        set.Spec.Selector.MatchLabels,
			Template:        &set.Spec.Template,
		},
		Status: corev1.ReplicationControllerStatus{
			Replicas:             set.Status.Replicas,
			FullyLabeledReplicas: set.Status.FullyLabeledReplicas,
			ReadyReplicas:        set.Status.ReadyReplicas,
			AvailableReplicas:    set.Status.AvailableReplicas,
			ObservedGeneration:   set.Status.ObservedGeneration,
		},
	}
	for _, c := range set.Status.Conditions {
		rc.Status.Conditions = append(rc.Status.Conditions, corev1.ReplicationControllerCondition{
			Type: corev1.ReplicationControllerConditionType(c.Type), Status: c.Status,
			LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
		})
	}
	return rc
}
