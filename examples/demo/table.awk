# plain results, results under rewarm, rewarm's report -> a table
# sim: not empty if the software driver was used

FILENAME == ARGV[1] { plain[$1] = $2 }
FILENAME == ARGV[2] { rewarmed[$1] = $2 }

# The report has the direction to the device first.
FILENAME == ARGV[3] && /"fanned_out_copies"/ { gsub(/[^0-9]/, ""); fanned_out[++directions] = $0 }

END {
    printf "%-28s %12s %12s %8s   %s\n", "", "plain", "rewarm", "faster", "copies fanned out"
    rate("pageable memory to the GPU", "to_device", fanned_out[1])
    if (!sim)
        rate("the GPU to pageable memory", "to_host", fanned_out[2])
    printf "%-28s %10.3f s %10.3f s   %.2f s saved\n", "first use of CUDA", plain["first_use"], \
        rewarmed["first_use"], plain["first_use"] - rewarmed["first_use"]
}

function rate(name, key, copies) {
    printf "%-28s %7.1f GB/s %7.1f GB/s %7.1fx   %d\n", name, plain[key], rewarmed[key], \
        rewarmed[key] / plain[key], copies
}
