package cluster

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/storage"
)

// Marks of what was made once, in a ConfigMap: it is its owner's from then on, who may delete it for good.
const (
	madeOnce      = "skiff-made-once"
	madeClassMark = "default-storage-class"
)

const isDefaultClass = "storageclass.kubernetes.io/is-default-class"

// defaultClass makes the class that claims get which name none, unless there is a default already, or this one was made
// before and is gone.
func defaultClass(ctx context.Context, client kubernetes.Interface) error {
	marks, err := client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, madeOnce, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	if _, made := marks.Data[madeClassMark]; made {
		return nil
	}
	isNew := apierrors.IsNotFound(err)
	classes, err := client.StorageV1().StorageClasses().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, c := range classes.Items {
		if c.Annotations[isDefaultClass] == "true" {
			return nil
		}
	}
	class := &storagev1.StorageClass{
		ObjectMeta:           metav1.ObjectMeta{Name: "standard", Annotations: map[string]string{isDefaultClass: "true"}},
		Provisioner:          storage.LocalProvisionerName,
		ReclaimPolicy:        ptr.To(corev1.PersistentVolumeReclaimDelete),
		VolumeBindingMode:    ptr.To(storagev1.VolumeBindingWaitForFirstConsumer),
		AllowVolumeExpansion: ptr.To(true),
	}
	if _, err := client.StorageV1().StorageClasses().Create(ctx, class, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	if isNew {
		marks = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: madeOnce, Namespace: metav1.NamespaceSystem}, Data: map[string]string{madeClassMark: class.Name}}
		_, err = client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Create(ctx, marks, metav1.CreateOptions{})
		return err
	}
	if marks.Data == nil {
		marks.Data = make(map[string]string)
	}
	marks.Data[madeClassMark] = class.Name
	_, err = client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Update(ctx, marks, metav1.UpdateOptions{})
	return err
}
