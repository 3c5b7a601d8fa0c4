# A plain chroot of the image, in a mount namespace that goes away with it: $1 the tree, $2 an empty directory.
set -e
mount -t tmpfs none "$2"
mkdir "$2/upper" "$2/work" "$2/root"
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/root"
mount -t proc proc "$2/root/proc"
mount --rbind /dev "$2/root/dev"
mount --rbind /sys "$2/root/sys"
root=$2/root
shift 2
exec chroot "$root" "$@"
